"""A file of arrays that are mapped into memory, whose pages all processes of a machine share."""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_path

_MAGIC = b"ms_detr arrays\n\0"
_ALIGNMENT = 64  # bytes
_CHUNK = 1 << 24  # bytes

# zlib.crc32 reads a gigabyte in about a second, and no page of it has to stay.


class DamagedError(ValueError):
    """A file isn't what was written."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays by name, and facts that JSON can hold.

    Attributes:
        path: the file that they are mapped from; None if they are in this process's memory. They
            are pickled as their path where there is one.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    path: Path | None = field(default=None)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return Arrays, (self.facts, self.arrays)
        return read_arrays, (self.path, self.facts["key"], False)


def write_arrays(path: str | os.PathLike[str], facts: Mapping[str, Any], arrays: Mapping) -> None:
    """Write a file, whole or not at all.

    Args:
        facts: ready for JSON; ``key`` tells which content this is.

    Raises:
        OSError: the system can't write there.
    """
    contents = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    described = {
        name: [array.dtype.str, array.shape, _checksum(array)] for name, array in contents.items()
    }
    header = json.dumps({"facts": facts, "arrays": described}).encode()
    head = [_MAGIC, *(n.to_bytes(8, "little") for n in (len(header), zlib.crc32(header))), header]
    size = sum(map(len, head)) + sum(_aligned(array.nbytes) for array in contents.values())
    with atomic_path(path, size) as partial, partial.open("wb") as file:
        file.writelines(head)
        file.write(bytes(-file.tell() % _ALIGNMENT))
        for array in contents.values():
            file.write(array.data)
            file.write(bytes(-array.nbytes % _ALIGNMENT))


def read_arrays(path: str | os.PathLike[str], key: Any, checked: bool = True) -> Arrays:
    """Map a file that `write_arrays` has written.

    Args:
        key: what the content is wanted of.
        checked: read all of it and compare checksums.

    Raises:
        OSError: there is no such file.
        DamagedError: it is damaged, or its content is of another key.
    """
    with open(path, "rb") as file:
        magic, length, checksum = (file.read(n) for n in (len(_MAGIC), 8, 8))
        size = min(int.from_bytes(length, "little"), os.fstat(file.fileno()).st_size)
        header = file.read(size) if magic == _MAGIC else b""
        if not header or zlib.crc32(header) != int.from_bytes(checksum, "little"):
            raise DamagedError(f"{path} has no header")
        content = json.loads(header)
        if content["facts"].get("key") != key:
            raise DamagedError(f"{path} is of another key")
        start = _aligned(file.tell())
        dtypes = {name: np.dtype(kind) for name, (kind, _, _) in content["arrays"].items()}
        sizes = [
            dtypes[name].itemsize * int(np.prod(shape, dtype=np.int64))
            for name, (_, shape, _) in content["arrays"].items()
        ]
        starts = [*accumulate(map(_aligned, sizes), initial=start)]
        if os.fstat(file.fileno()).st_size != starts[-1]:
            raise DamagedError(f"{path} is cut short")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for place, size, (name, (_, shape, checksum)) in zip(
        starts, sizes, content["arrays"].items(), strict=False
    ):
        count = size // dtypes[name].itemsize
        array = np.frombuffer(mapped, dtypes[name], count, place if count else 0).reshape(shape)
        if checked and _checksum(array) != checksum:
            raise DamagedError(f"{path}: {name} is damaged")
        arrays[name] = array
    return Arrays(content["facts"], arrays, Path(path))


def _checksum(array: np.ndarray) -> int:
    checksum = 0
    content = array.reshape(-1).view(np.uint8)
    for start in range(0, len(content), _CHUNK):
        checksum = zlib.crc32(content[start : start + _CHUNK].data, checksum)
    return checksum


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
