"""The objects of a dataset: read one by one, kept as arrays, and what is wrong with them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ..box_plausibility import box_findings, inside_image
from ..mask_plausibility import mask_findings
from ..segmentation import Segmentation, parse
from .entries import ImageEntry, ObjectEntry, Size
from .findings import Findings, Kind
from .polygons import crosses_itself

CHUNK = 4096  # masks that are in memory at once
WHOLE = 1.0  # pixels that a box may lack, or have too much, at each edge of the whole image


@dataclass(frozen=True)
class Objects:
    """N objects whose image, class and box are known.

    Attributes:
        image: (N,) int64, places of images.
        category: (N,) int64, places in ``names``.
        boxes: (N, 4) float64, x, y, width, height.
        crowd, masked: (N,) bool; masked are those that have a segmentation.
        ids: (N,) int64, of a COCO file; -1 where there is none.
        fine: (N,) bool, boxes of which a part lies in its image.
    """

    names: tuple[str, ...]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    masked: np.ndarray
    ids: np.ndarray
    fine: np.ndarray


def read_objects(
    entries: Iterator[ObjectEntry],
    images: Sequence[ImageEntry],
    sizes: Sequence[Size | None],
    real: Sequence[Size | None],
    classes: Sequence[str],
    findings: Findings,
) -> Objects:
    """Read objects, and look at their boxes and masks.

    Args:
        sizes: of the images, where something tells them; what labels tell comes first.
        real: those of the image files, which masks may have where labels tell other ones.
        classes: come first among ``names``.
    """
    number_of = {name: number for number, name in enumerate(classes)}
    numbers, boxes, flags = array("q"), array("d"), bytearray()
    masks = _Masks(images, sizes, real, findings)
    for entry in entries:
        category = number_of.setdefault(entry.category, len(number_of))
        numbers.extend((entry.image, category, -1 if entry.id is None else entry.id))
        boxes.extend(entry.box)
        flags += bytes((entry.crowd, entry.segmentation is not None))
        masks.take(entry)
    masks.look()
    image, category, ids = np.frombuffer(numbers, np.int64).reshape(-1, 3).T
    crowd, masked = np.frombuffer(bytes(flags), bool).reshape(-1, 2).T
    box = np.frombuffer(boxes, np.float64).reshape(-1, 4)
    looked = _Boxes(images, sizes, image, category, box, crowd, ids, findings)
    objects = Objects(
        tuple(number_of), image, category, box, crowd, masked, ids, looked.fine()
    )  # fmt: skip
    _find_unmasked(objects, images, findings)
    return objects


def place_of(images: Sequence[ImageEntry], image: int, annotation_id: int | None) -> dict[str, Any]:
    """Return where an object is, for a `Finding`; an id of -1 is none."""
    number = None if annotation_id in (None, -1) else int(annotation_id)
    return images[image].place(int(image)) | {"annotation_id": number}


def _find_unmasked(objects: Objects, images: Sequence[ImageEntry], findings: Findings) -> None:
    if not objects.masked.any():
        return
    for row in np.flatnonzero(~objects.masked):
        place = place_of(images, objects.image[row], objects.ids[row])
        findings.add(Kind.NO_SEGMENTATION, "", **place)


class _Masks:
    """Takes objects, and looks at the masks of many at once."""

    def __init__(
        self,
        images: Sequence[ImageEntry],
        sizes: Sequence[Size | None],
        real: Sequence[Size | None],
        findings: Findings,
    ):
        self._images = images
        self._sizes = sizes
        self._real = real
        self._findings = findings
        self._entries: list[ObjectEntry] = []
        self._found: list[Segmentation] = []

    def take(self, entry: ObjectEntry) -> None:
        """Look at the form of a segmentation; what is sound is looked at once more with others."""
        size = self._sizes[entry.image]
        if entry.segmentation is None or size is None:
            return
        place = place_of(self._images, entry.image, entry.id)
        try:
            found = self._parsed(entry, size)
        except DataError as error:
            self._findings.add(Kind.BAD_SEGMENTATION, str(error), **place)
            return
        if isinstance(found, list):
            if len(found) < len(entry.segmentation):
                self._findings.add(
                    Kind.BAD_SEGMENTATION, "has a polygon of one or two points", **place
                )
            if any(map(crosses_itself, found)):
                points = sum(map(len, found)) // 2
                self._findings.add(Kind.CROSSING_POLYGON, f"{points} points", **place)
        x, y, width, height = entry.box
        if min(width, height, x + width, y + height, size[0] - x, size[1] - y) <= 0:
            return  # no mask lies in such a box
        self._entries.append(entry)
        self._found.append(found)
        if len(self._found) == CHUNK:
            self.look()

    def _parsed(self, entry: ObjectEntry, size: Size) -> Segmentation:
        try:
            return parse(entry.segmentation, size[1], size[0])
        except DataError:
            real = self._real[entry.image]
            if real is None or real == size:
                raise
            return parse(entry.segmentation, real[1], real[0])

    def look(self) -> None:
        """Look at those that were taken."""
        if not self._found:
            return
        boxes = np.array([entry.box for entry in self._entries])
        sizes = np.array([self._sizes[entry.image] for entry in self._entries], np.float64)
        for finding in mask_findings(self._found, boxes, sizes):
            for row in finding.rows:
                entry = self._entries[row]
                place = place_of(self._images, entry.image, entry.id)
                what = f"masks that {finding.what}"
                self._findings.add(Kind.IMPLAUSIBLE_MASK, _shown(boxes[row]), what, **place)
        self._entries, self._found = [], []


class _Boxes:
    """Looks at all boxes; each has one fault at most."""

    def __init__(
        self,
        images: Sequence[ImageEntry],
        sizes: Sequence[Size | None],
        image: np.ndarray,
        category: np.ndarray,
        boxes: np.ndarray,
        crowd: np.ndarray,
        ids: np.ndarray,
        findings: Findings,
    ):
        known = np.array([size or (np.inf, np.inf) for size in sizes], np.float64).reshape(-1, 2)
        self._images = images
        self._image = image
        self._boxes = boxes
        self._ids = ids
        self._sizes = known[image]
        self._findings = findings
        self._left = np.ones(len(boxes), bool)  # without a fault so far
        self._look()
        self._find_repeated(category, crowd)

    def fine(self) -> np.ndarray:
        """Return which boxes (N,) have a part in their image."""
        start, end = self._boxes[:, :2], self._boxes[:, :2] + self._boxes[:, 2:]
        return ((self._boxes[:, 2:] > 0) & (end > 0) & (start < self._sizes)).all(1)

    def _look(self) -> None:
        boxes, sizes = self._boxes, self._sizes
        self._tell(Kind.EMPTY_BOX, (boxes[:, 2:] <= 0).any(1))
        # What images tell, where they are known.
        rows = np.flatnonzero(self._left & np.isfinite(sizes).all(1))
        for finding in box_findings(boxes[rows], sizes[rows], self._image[rows]):
            if not finding.single:
                wrong = np.zeros(len(boxes), bool)
                wrong[rows[finding.rows]] = True
                self._tell(Kind.BOX_CONVENTION, wrong, f"boxes that {finding.what}")
        x, y, width, height = boxes.T
        right, lower = x + width, y + height
        outside = (right <= 0) | (lower <= 0) | (x >= sizes[:, 0]) | (y >= sizes[:, 1])
        self._tell(Kind.OUTSIDE_BOX, outside)
        self._tell(Kind.LEAVING_BOX, ~inside_image((x, y, right, lower), sizes))
        start = (boxes[:, :2] <= WHOLE).all(1)
        end = (right >= sizes[:, 0] - WHOLE) & (lower >= sizes[:, 1] - WHOLE)
        self._tell(Kind.WHOLE_BOX, start & end)

    def _find_repeated(self, category: np.ndarray, crowd: np.ndarray) -> None:
        rows = np.flatnonzero(~crowd & (self.fine() if len(crowd) else crowd))
        table = np.column_stack([self._image[rows], category[rows], self._boxes[rows]])
        _, first = np.unique(table, axis=0, return_index=True)
        again = np.ones(len(rows), bool)
        again[first] = False
        for row in rows[again]:
            self._add(Kind.DUPLICATE_OBJECT, row)

    def _tell(self, kind: Kind, wrong: np.ndarray, what: str = "") -> None:
        for row in np.flatnonzero(wrong & self._left):
            self._add(kind, row, what)
        self._left &= ~wrong

    def _add(self, kind: Kind, row: int, what: str = "") -> None:
        width, height = self._sizes[row]
        image = "" if np.isinf(width) else f" in an image of {width:g} x {height:g}"
        place = place_of(self._images, self._image[row], self._ids[row])
        self._findings.add(kind, _shown(self._boxes[row]) + image, what, **place)


def _shown(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in box) + "]"
