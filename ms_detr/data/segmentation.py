"""The pixels of objects: as COCO's format and custom datasets write them, checked and moved.

Three forms: polygons, a list of flat arrays (x1, y1, x2, y2, ...) in pixels of which the union is
meant; run lengths (RLE), a dict with the image's ``size`` (height, width) and ``counts`` in column
order with zeros first, as numbers or compressed to a string; a bitmap (H, W) of bool or uint8,
which no JSON holds but a custom dataset may. pycocotools says which pixels a polygon covers.
"""

import logging
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform
from pycocotools import mask as coco_mask

from ..errors import DataError

logger = logging.getLogger(__name__)

Segmentation = list[np.ndarray] | dict[str, Any] | np.ndarray

FARTHEST = 1e5  # pixels: a vertex further out is a mistake, and its edge would take gigabytes


def compact(entry: dict) -> dict:
    """Make the polygons of an annotation arrays of float32, which take a fifth of the memory.

    To be called as soon as the annotation is parsed. What is wrong stays as it is, to be reported.
    """
    value = entry.get("segmentation")
    if isinstance(value, list):
        entry["segmentation"] = [_compact(polygon) for polygon in value]
    return entry


def _compact(polygon: Any) -> Any:
    array = _numbers(polygon)
    if array is None or len(array) < 6 or len(array) % 2:
        return polygon
    return array.astype(np.float32)


def parse(value: Any, height: int, width: int) -> Segmentation:
    """Check a segmentation of an image, which has one of the three forms; RLE gets compressed.

    Vertices may lie off the image. Polygons of one or two points, which cover nothing, are left
    out as long as there are others.

    Raises:
        DataError: what is wrong, as a sentence without its beginning: whose segmentation it is.
    """
    if value is None or (isinstance(value, (list, dict)) and not value):
        raise DataError("has no segmentation")
    if isinstance(value, np.ndarray):
        return _parse_bitmap(value, height, width)
    if isinstance(value, Mapping):
        return _parse_runs(value, height, width)
    if isinstance(value, list):
        polygons = [_parse_polygon(polygon) for polygon in value]
        kept = [polygon for polygon in polygons if len(polygon) >= 6]
        if not kept:
            raise DataError(
                f"has segmentation {reprlib.repr(value)}, without a polygon of three points"
            )
        return kept
    raise DataError(f"has segmentation {reprlib.repr(value)}, neither polygons nor RLE")


def to_runs(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Return a segmentation that `parse` has returned as compressed RLE."""
    if isinstance(segmentation, dict):
        return segmentation
    if isinstance(segmentation, list):
        polygons = [_exact(polygon) for polygon in segmentation]
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.encode(np.asfortranarray(segmentation, dtype=np.uint8))


def to_bitmap(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Return a segmentation that `parse` has returned as uint8 (H, W) of zeros and ones."""
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(np.uint8)
    return coco_mask.decode(to_runs(segmentation, height, width))


def move_pixels(bitmap: np.ndarray, transforms: Transform) -> np.ndarray:
    """Move pixels (uint8 of zeros and ones) with an augmentation, by nearest neighbour, to bool."""
    # Some versions pad with 255, a label to be ignored.
    return transforms.apply_segmentation(bitmap) == 1


def transformed(
    segmentation: Segmentation, transforms: Transform, size: tuple[int, int], area: np.ndarray
) -> np.ndarray:
    """Return the pixels of an object after an augmentation, bool (H, W).

    Polygons move as coordinates and are drawn once, at the end; pixels move by nearest neighbour.

    Args:
        segmentation: what `parse` returned.
        size: (height, width) of the image before.
        area: bool (H, W), where the image lies afterwards: polygons may leave it for the padding.
    """
    if isinstance(segmentation, list):
        # Copies: Detectron2 moves points in place.
        points = [_exact(polygon).reshape(-1, 2) for polygon in segmentation]
        runs = to_runs([transforms.apply_coords(p).ravel() for p in points], *area.shape)
        # Pixels of the box alone: pycocotools has them by columns, which is slow to turn round.
        x, y, width, height = coco_mask.toBbox(runs).astype(int)
        window = (slice(y, y + height), slice(x, x + width))
        pixels = np.zeros(area.shape, dtype=bool)
        pixels[window] = coco_mask.decode(runs)[window] & area[window]
        return pixels
    return move_pixels(to_bitmap(segmentation, *size), transforms)


def _exact(polygon: np.ndarray) -> np.ndarray:
    """Return a copy in float64, of float32 rounded to the thousandths of a pixel of the file."""
    exact = polygon.astype(np.float64)
    return exact.round(3) if polygon.dtype == np.float32 else exact


def _numbers(value: Any) -> np.ndarray | None:
    """Return a flat sequence of numbers as an array, or None if it isn't one."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iuf" else None


def _parse_polygon(value: Any) -> np.ndarray:
    points = _numbers(value)
    if points is None or len(points) % 2:
        raise DataError(
            f"has the polygon {reprlib.repr(value)}, not an even count of numbers "
            "[x1, y1, x2, y2, ...]"
        )
    if not (abs(points) < FARTHEST).all():  # nor is NaN
        raise DataError("has a polygon with a coordinate that is not finite or far off the image")
    return points


def _parse_bitmap(value: np.ndarray, height: int, width: int) -> np.ndarray:
    if value.shape != (height, width) or value.dtype not in (np.bool_, np.uint8):
        raise DataError(
            f"has a bitmap of {value.dtype} {value.shape}, not of bool or uint8 {(height, width)} "
            "(height and width of its image)"
        )
    return value != 0


def _parse_runs(value: Mapping, height: int, width: int) -> dict[str, Any]:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, Sequence) or list(size) != [height, width]:
        raise DataError(
            f"has an RLE of size {reprlib.repr(size)}, but its image is {[height, width]} "
            "([height, width])"
        )
    if isinstance(counts, str):
        counts = counts.encode()
    runs = decompress(counts) if isinstance(counts, bytes) else _numbers(counts)
    if runs is None or runs.dtype.kind == "f":
        raise DataError(f"has an RLE with counts {reprlib.repr(counts)}, which are no run lengths")
    # pycocotools makes something of any runs.
    if (runs < 0).any() or runs.sum() != height * width:
        raise DataError(
            f"has an RLE whose counts {reprlib.repr(counts)} add up to {runs.sum()} pixels instead "
            f"of {height} x {width}"
        )
    if not isinstance(counts, bytes):
        counts = coco_mask.frPyObjects({"size": list(size), "counts": runs}, height, width)[
            "counts"
        ]
    return {"size": [height, width], "counts": counts}


def decompress(counts: bytes) -> np.ndarray | None:
    """Return the run lengths of a compressed RLE, or None if it is none.

    A character holds five bits of a number, the lowest first, and in a sixth whether more follow;
    the last bit is the sign. From the fourth on a number is added to the run two before it.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 32 bits
        return None
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
