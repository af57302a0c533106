"""Millions of texts and masks in two arrays each, of which nothing is an object until asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from .segmentation import Segmentation

CHUNK = 1 << 16  # entries that are moved at a time


class PackedBytes(Sequence[bytes]):
    """Strings of bytes, one behind the other.

    Args:
        content: uint8, all of them.
        starts: (n + 1,) int64, where each begins in it, and the last one ends.
    """

    def __init__(self, content: np.ndarray, starts: np.ndarray):
        self.content = content
        self.starts = starts

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> PackedBytes:
        """Pack strings as they come."""
        content, starts = bytearray(), array("q", [0])
        for string in strings:
            content += string
            starts.append(len(content))
        return cls(np.frombuffer(content, np.uint8), np.frombuffer(starts, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[PackedBytes]) -> PackedBytes:
        """Put parts, at least one, behind each other."""
        ends = np.cumsum([0, *(len(part.content) for part in parts[:-1])])
        starts = [part.starts[1:] + end for part, end in zip(parts, ends, strict=True)]
        return cls(np.concatenate([p.content for p in parts]), np.concatenate([[0], *starts]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.content[self.starts[index] : self.starts[index + 1]].tobytes()

    def taken(self, order: np.ndarray) -> PackedBytes:
        """Return those at the places (m,), in that order."""
        lengths = np.diff(self.starts)[order]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        content = np.empty(starts[-1], np.uint8)
        for first in range(0, len(order), CHUNK):  # or the places of bytes would take much memory
            part = slice(first, first + CHUNK)
            into, end = starts[first], starts[min(first + CHUNK, len(order))]
            shift = np.repeat(self.starts[order[part]] - starts[:-1][part], lengths[part])
            content[into:end] = self.content[np.arange(into, end) + shift]
        return PackedBytes(content, starts)


class PackedMasks(Sequence[Segmentation]):
    """Segmentations that `ms_detr.data.segmentation.parse` has returned: polygons or RLE.

    Args:
        content: of polygons their number, their lengths (int32) and the coordinates (float32); of
            RLE the compressed counts.
        are_runs: (n,) bool, those that are RLE.
        sizes: (n, 2) height and width of the image of each.
    """

    def __init__(self, content: PackedBytes, are_runs: np.ndarray, sizes: np.ndarray):
        self.content = content
        self.are_runs = are_runs
        self.sizes = sizes

    @classmethod
    def of(cls, masks: Iterable[Segmentation], sizes: np.ndarray) -> PackedMasks:
        """Pack segmentations as they come."""
        kinds = bytearray()

        def packed(mask: Segmentation) -> bytes:
            kinds.append(isinstance(mask, dict))
            if isinstance(mask, dict):
                return mask["counts"]
            lengths = np.array([len(mask), *map(len, mask)], np.int32)
            return lengths.tobytes() + b"".join(p.astype(np.float32).tobytes() for p in mask)

        content = PackedBytes.of(map(packed, masks))
        return cls(content, np.frombuffer(kinds, bool), sizes)

    def __len__(self) -> int:
        return len(self.content)

    @overload
    def __getitem__(self, index: int) -> Segmentation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Segmentation]: ...
    def __getitem__(self, index: int | slice) -> Segmentation | list[Segmentation]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        content = self.content[index]
        if self.are_runs[index]:
            return {"size": self.sizes[index].tolist(), "counts": content}
        return unpacked_polygons(content)

    def taken(self, order: np.ndarray) -> PackedMasks:
        """Return those at the places (m,), in that order."""
        return PackedMasks(self.content.taken(order), self.are_runs[order], self.sizes[order])


def unpacked_polygons(content: bytes) -> list[np.ndarray]:
    """Return the polygons, arrays of float32 of their own, that `PackedMasks` holds as bytes."""
    count = int(np.frombuffer(content, np.int32, 1)[0])
    lengths = np.frombuffer(content, np.int32, count, 4)
    points: Any = np.frombuffer(content, np.float32, offset=4 * (count + 1)).copy()
    return np.split(points, np.cumsum(lengths)[:-1])
