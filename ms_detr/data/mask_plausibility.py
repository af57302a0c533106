"""Masks that can't be right: without a pixel, or elsewhere than their boxes, and why probably."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from pycocotools import mask as coco_mask

from .box_plausibility import MAJORITY, SLACK_PIXELS
from .plausibility import Finding
from .segmentation import Segmentation, decompress

OVERLAP = 0.5  # of a mask's extent that lies in its box
SAMPLE = 1000  # masks in which a cause is looked for
CHUNK = 4096


def mask_findings(
    segmentations: Sequence[Segmentation], boxes: np.ndarray, sizes: np.ndarray
) -> list[Finding]:
    """Find segmentations that can't be right, as `ms_detr.data.segmentation.parse` returns them.

    Args:
        boxes: (n, 4) x, y, width, height.
        sizes: (n, 2) width and height of the image of each.
    """
    unseen = np.empty(len(segmentations), dtype=bool)
    strays = np.empty(len(segmentations), dtype=bool)
    for start in range(0, len(segmentations), CHUNK):  # or it would take much memory
        part = slice(start, start + CHUNK)
        in_image = extents(segmentations[part])
        in_image = _cut(in_image, np.zeros_like(sizes[part]), sizes[part])
        unseen[part] = (in_image[:, 2:] <= in_image[:, :2]).any(1)
        strays[part] = ~unseen[part] & ~_overlap(in_image, boxes[part])
    rows = np.flatnonzero(strays)
    findings = [
        Finding(
            np.flatnonzero(unseen),
            "have no pixel in their images, so that their objects aren't learnt",
            "Correct or remove them.",
            kind="masks",
        ),
        Finding(
            rows,
            f"lie outside their boxes{_cause(segmentations, rows, boxes, sizes)}",
            "Correct them or the boxes.",
            kind="masks",
        ),
    ]
    return [finding for finding in findings if finding.rows.size]


def extents(segmentations: Sequence[Segmentation]) -> np.ndarray:
    """Return the corners (n, 4) x1, y1, x2, y2 of boxes around segmentations; zeros if empty."""
    found = np.zeros((len(segmentations), 4))
    polygons = [i for i, segmentation in enumerate(segmentations) if isinstance(segmentation, list)]
    runs = [i for i, segmentation in enumerate(segmentations) if isinstance(segmentation, dict)]
    if polygons:
        points = np.concatenate([*chain.from_iterable(segmentations[i] for i in polygons)])
        points = points.reshape(-1, 2)
        counts = [sum(map(len, segmentations[i])) // 2 for i in polygons]
        starts = np.cumsum([0, *counts[:-1]])
        found[polygons, :2] = np.minimum.reduceat(points, starts)
        found[polygons, 2:] = np.maximum.reduceat(points, starts)
    if runs:
        boxes = coco_mask.toBbox([segmentations[i] for i in runs])
        found[runs] = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
    return found


def _cut(corners: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Cut boxes (n, 4) to corners (n, 2); where nothing is left, x2 <= x1 or y2 <= y1."""
    return np.concatenate((np.maximum(corners[:, :2], lower), np.minimum(corners[:, 2:], upper)), 1)


def _overlap(corners: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Tell which masks' extents lie in their boxes well enough, give or take some pixels."""
    wide = np.concatenate((corners[:, :2] - 0.5, corners[:, 2:] + 0.5), 1)  # flat ones, too
    upper_left, lower_right = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    common = _cut(wide, upper_left - SLACK_PIXELS, lower_right + SLACK_PIXELS)
    sides = (common[:, 2:] - common[:, :2]).clip(0)
    return sides.prod(1) >= OVERLAP * (wide[:, 2:] - wide[:, :2]).prod(1)


def _cause(
    segmentations: Sequence[Segmentation], rows: np.ndarray, boxes: np.ndarray, sizes: np.ndarray
) -> str:
    """Say what explains most of the masks that lie outside their boxes, to be added to that."""
    if not rows.size:
        return ""
    rows = rows[:: -(-rows.size // SAMPLE)]
    masks, boxes, sizes = [segmentations[row] for row in rows], boxes[rows], sizes[rows]
    corners = extents(masks)
    readings = {
        "as if run lengths had been counted along rows instead of columns": _row_wise(masks, sizes),
        "as if y came before x": corners[:, [1, 0, 3, 2]],
        "as if they were fractions of width and height": corners * np.tile(sizes, 2),
        "as if they were measured from the corner of the box": corners + np.tile(boxes[:, :2], 2),
    }
    explained = {reading: _overlap(moved, boxes).mean() for reading, moved in readings.items()}
    best = max(explained, key=lambda reading: explained[reading])
    return f", {best}" if explained[best] >= MAJORITY else ""


def _row_wise(segmentations: Sequence[Segmentation], sizes: np.ndarray) -> np.ndarray:
    """Return the extents (n, 4) of run lengths counted along rows; far off for polygons."""
    found = np.full((len(segmentations), 4), -1e9)
    for i, segmentation in enumerate(segmentations):
        if isinstance(segmentation, dict):
            lengths = decompress(segmentation["counts"])
            assert lengths is not None  # it is checked
            ends = np.cumsum(lengths)[1::2]
            filled = lengths[1::2] > 0
            (first_row, first), (last_row, last) = (
                np.divmod(pixels[filled], int(sizes[i, 0]))
                for pixels in (ends - lengths[1::2], ends - 1)
            )
            wraps = (first_row < last_row).any()
            left, right = (0, sizes[i, 0]) if wraps else (first.min(), last.max() + 1)
            found[i] = left, first_row.min(), right, last_row.max() + 1
    return found
