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

    @property
    def counted(self) -> np.ndarray:
        """Which (N,) are objects to a model: those with a part in their image that are no crowd."""
        return self.fine & ~self.crowd


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
        classes: come first among ``names``; others follow by their names, as in training.
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
    names = (*dict.fromkeys(classes), *sorted(number_of.keys() - set(classes)))
    place = {name: number for number, name in enumerate(names)}
    category = np.array([place[name] for name in number_of], np.int64)[category]
    crowd, masked = np.frombuffer(bytes(flags), bool).reshape(-1, 2).T
    box = np.frombuffer(boxes, np.float64).reshape(-1, 4)
    known = np.array([size or (np.inf, np.inf) for size in sizes], np.float64).reshape(-1, 2)
    fine = _have_a_part(box, known[image])
    objects = Objects(names, image, category, box, crowd, masked, ids, fine)
    _Boxes(objects, images, known[image], findings).look()
    _find_unmasked(objects, images, findings)
    return objects


def place_of(
    images: Sequence[ImageEntry], image: int, annotation_id: int | None, box: Sequence[float]
) -> dict[str, Any]:
    """Return where an object is, for a `Finding`; an id of -1 is none."""
    number = None if annotation_id is None or annotation_id == -1 else int(annotation_id)
    corner = tuple(map(float, box))
    return images[image].place(int(image)) | {"annotation_id": number, "box": corner}


def _find_unmasked(objects: Objects, images: Sequence[ImageEntry], findings: Findings) -> None:
    if not objects.masked.any():
        return
    for row in np.flatnonzero(~objects.masked).tolist():
        place = place_of(images, objects.image[row], objects.ids[row], objects.boxes[row])
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
        place = place_of(self._images, entry.image, entry.id, entry.box)
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
                place = place_of(self._images, entry.image, entry.id, entry.box)
                what = f"masks that {finding.what}"
                self._findings.add(Kind.IMPLAUSIBLE_MASK, _shown(boxes[row]), what, **place)
        self._entries, self._found = [], []


class _Boxes:
    """Looks at all boxes; each has one fault at most, and may be another's besides."""

    def __init__(
        self,
        objects: Objects,
        images: Sequence[ImageEntry],
        sizes: np.ndarray,
        findings: Findings,
    ):
        self._objects = objects
        self._images = images
        self._sizes = sizes
        self._findings = findings
        self._left = np.ones(len(objects.boxes), bool)  # without a fault so far

    def look(self) -> None:
        """Look at them."""
        self._find_misplaced()
        self._find_repeated()

    def _find_misplaced(self) -> None:
        boxes, sizes = self._objects.boxes, self._sizes
        self._tell(Kind.EMPTY_BOX, np.any(boxes[:, 2:] <= 0, axis=1))
        # What images tell, where they are known.
        rows = np.flatnonzero(self._left & np.isfinite(sizes).all(1))
        for finding in box_findings(boxes[rows], sizes[rows], self._objects.image[rows]):
            if not finding.single:
                wrong = np.zeros(len(boxes), bool)
                wrong[rows[finding.rows]] = True
                self._tell(Kind.BOX_CONVENTION, wrong, f"boxes that {finding.what}")
        x, y, width, height = boxes.T
        right, lower = x + width, y + height
        outside = (right <= 0) | (lower <= 0) | (x >= sizes[:, 0]) | (y >= sizes[:, 1])
        self._tell(Kind.OUTSIDE_BOX, outside)
        self._tell(Kind.LEAVING_BOX, ~inside_image((x, y, right, lower), sizes))
        start = np.all(boxes[:, :2] <= WHOLE, axis=1)
        end = (right >= sizes[:, 0] - WHOLE) & (lower >= sizes[:, 1] - WHOLE)
        self._tell(Kind.WHOLE_BOX, start & end)

    def _find_repeated(self) -> None:
        rows = np.flatnonzero(self._objects.counted)
        columns = self._objects.image, self._objects.category, self._objects.boxes
        table = np.column_stack([column[rows] for column in columns])
        _, first = np.unique(table, axis=0, return_index=True)
        again = np.ones(len(rows), bool)
        again[first] = False
        for row in rows[again].tolist():
            self._add(Kind.DUPLICATE_OBJECT, row)

    def _tell(self, kind: Kind, wrong: np.ndarray, what: str = "") -> None:
        for row in np.flatnonzero(wrong & self._left).tolist():
            self._add(kind, row, what)
        self._left &= ~wrong

    def _add(self, kind: Kind, row: int, what: str = "") -> None:
        width, height = self._sizes[row]
        image = "" if np.isinf(width) else f" in an image of {width:g} x {height:g}"
        box = self._objects.boxes[row]
        place = place_of(self._images, self._objects.image[row], self._objects.ids[row], box)
        self._findings.add(kind, _shown(box) + image, what, **place)


def _have_a_part(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tell which boxes (N, 4) have a part in their images (N, 2)."""
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return ((boxes[:, 2:] > 0) & (end > 0) & (start < sizes)).all(1)


def _shown(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in box) + "]"
