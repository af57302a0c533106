"""The areas of objects: the file's where they can be right."""

from __future__ import annotations

import logging
import math
import reprlib
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from .coco_tables import CROWD, IGNORED, NO_AREA, WHOLE_AREA, Annotations, as_written
from .remarks import Remark

SIDES = 32, 96  # pixels; of COCO's medium objects, and of its large ones, at least
LARGEST_AREA = 1e5**2  # square pixels: COCO's metric passes over what is larger


def areas_of(
    table: Annotations,
    rows: np.ndarray,
    ids: np.ndarray,
    facts: np.ndarray,
    boxes: np.ndarray,
    sizes: np.ndarray,
    runs: Sequence[bytes] | None,
    masks: bool,
) -> tuple[np.ndarray, list[Remark]]:
    """Return the areas of N objects in square pixels, and what is to be said of them.

    An object's area decides among which sizes it counts, and whether it counts at all. The file's
    is taken if it can be right; else it is the mask's, without masks that of the box's part within
    the image. One remark says how many were computed, unless the file leaves all of them out.

    Args:
        table: the annotations that the objects are at ``rows`` (N,) of.
        ids, facts: (N,) of the annotations.
        boxes: (N, 4) x, y, width, height.
        sizes: (N, 2) width and height of the image of each.
        runs: the masks, compressed run lengths; None if they aren't there.
        masks: they are wanted, for what is said.
    """
    areas = table.column("area").astype(np.float64)[rows]
    pixels = None if runs is None else _pixels(runs, sizes)
    computed = ~_plausible(areas, boxes, pixels)
    x, y, w, h = boxes[computed].T
    width, height = sizes[computed].T
    new = (np.minimum(x + w, width) - np.maximum(x, 0)) * (
        np.minimum(y + h, height) - np.maximum(y, 0)
    )
    if pixels is not None:
        new = np.where(pixels[computed] > 0, pixels[computed], new)
    remarks = _remarks(table, rows, ids, facts, areas, computed, "mask" if masks else "box")
    areas[computed] = new
    return areas, remarks


def _pixels(runs: Sequence[bytes], sizes: np.ndarray) -> np.ndarray:
    """Return how many pixels masks have."""
    found = (
        coco_mask.area({"size": [height, width], "counts": counts})
        for counts, (width, height) in zip(runs, sizes.astype(int).tolist(), strict=True)
    )
    return np.fromiter(found, np.float64, len(sizes))


def _plausible(areas: np.ndarray, boxes: np.ndarray, pixels: np.ndarray | None) -> np.ndarray:
    """Tell which of a file's areas can be right: numbers above 0 that box and mask allow.

    Not more than the box holds, which may be rounded and may count its last pixel or not: a pixel
    more is allowed each way. Not below a pixel in a box of a hundred, as fractions of an image are.
    Within a factor of four of the mask's, unless both are of few pixels, where polygons differ.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        extent = boxes[:, 2:]
        least = extent.prod(1) >= 100
        most = np.minimum((extent + 1).prod(1), LARGEST_AREA)
        fine = (areas > 0) & (areas >= least) & (areas <= most)
        if pixels is None:
            return fine
        close = (pixels / 4 <= areas) & (areas <= 4 * pixels)
        return fine & ((pixels == 0) | (np.maximum(areas, pixels) <= 64) | close)


def _remarks(
    table: Annotations,
    rows: np.ndarray,
    ids: np.ndarray,
    facts: np.ndarray,
    areas: np.ndarray,
    computed: np.ndarray,
    source: str,
) -> list[Remark]:
    remarks = []
    total, count = len(rows), int(computed.sum())
    if count and count == total and (facts & NO_AREA).all():
        remarks.append(
            Remark(
                f": no annotation has an 'area': it is the {source}'s, for AP by size",
                level=logging.INFO,
            )
        )
    elif count:
        first = int(np.argmax(computed))
        remarks.append(
            Remark(
                f": the 'area' of {count} of {total} annotations is missing, no number, not above "
                "0, or nothing like box and mask; it was computed from the "
                f"{source}, for AP by size. The first is annotation {ids[first]} with area "
                f"{_shown(table, int(rows[first]), int(facts[first]), float(areas[first]))}."
            )
        )
    ignored = int(((facts & IGNORED != 0) & (facts & CROWD == 0)).sum())
    if ignored:
        remarks.append(
            Remark(
                f": {ignored} of {total} annotations have 'ignore' set, which COCO's evaluation "
                "doesn't know: they count like any other. What neither training nor evaluation "
                "shall look at needs iscrowd=1."
            )
        )
    return remarks


def _shown(table: Annotations, row: int, facts: int, area: float) -> str:
    """Return an area as the file has it."""
    if row in table.odd_areas:
        return table.odd_areas[row]
    if facts & NO_AREA:
        return "None"
    whole = facts & WHOLE_AREA and math.isfinite(area)
    return reprlib.repr(as_written([area], facts if whole else 0, [WHOLE_AREA])[0])
