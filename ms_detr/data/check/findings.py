"""What can be wrong with a dataset, and what was found to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ...errors import shortened
from ..formats.problems import printable

KEPT = 10_000  # findings of a kind that are kept; more are counted


class Kind(Enum):
    """A kind of fault.

    Attributes:
        code: for scripts.
        what: has it, in words.
        remedy: what to do about it.
        is_error: training ends by it, leaves something out, or measures what it has learnt by
            heart; other kinds may be meant.
    """

    MISSING_IMAGE = (
        "missing-image",
        "image files that aren't there",
        "Put them there, or remove their entries.",
    )
    BROKEN_IMAGE = (
        "broken-image",
        "image files that can't be read",
        "Get them once more, or remove them.",
    )
    TRUNCATED_IMAGE = (
        "truncated-image",
        "image files that are cut short",
        "Get them once more, or remove them.",
    )
    HUGE_IMAGE = (
        "huge-image",
        "images of too many pixels",
        "Shrink them with their labels, or cut them into tiles.",
    )
    DEEP_IMAGE = ("deep-image", "images of more than 8 bits a channel", "Convert them to 8 bits.")
    IMAGE_SIZE = (
        "image-size",
        "images of another size than their labels say",
        "Give the images that were annotated, or scale the labels.",
    )
    ORIENTATION = (
        "orientation",
        "labels with the size before the image is turned upright",
        "Remove the orientation tag if boxes fit the stored pixels, else swap width and height.",
    )
    DUPLICATE_IMAGE = (
        "duplicate-image",
        "images of the same pixels as another of their split",
        "Keep one of them.",
    )
    LEAKED_IMAGE = (
        "leaked-image",
        "images of the same pixels as one of another split",
        "Keep them in one split: else what is measured was learnt by heart.",
    )
    ENTRY = (
        "bad-entry",
        "entries that lack something, or are of the wrong kind",
        "Correct the file.",
    )
    DUPLICATE_ID = ("duplicate-id", "ids or class names that come twice", "Number them anew.")
    ORPHAN = ("orphan-annotation", "annotations of no image", "Remove them.")
    UNKNOWN_CLASS = (
        "unknown-class",
        "objects of a class that isn't listed",
        "Add the class, or correct the objects.",
    )
    UNUSED_CLASS = (
        "unused-class",
        "classes without an object",
        "Remove them, unless they are to come.",
        False,
    )
    UNTRAINED_CLASS = (
        "untrained-class",
        "classes that have objects, and none in train",
        "Divide the dataset anew, or correct the names.",
    )
    SIMILAR_CLASSES = (
        "similar-classes",
        "classes whose names differ in case, spaces or signs alone",
        "Give them one name, unless they are two classes.",
        False,
    )
    LABELS = ("labels", "labels that can't be used", "Correct them.")
    DOUBTFUL_LABELS = (
        "doubtful-labels",
        "labels that are mended, or passed over, when read",
        "See whether they are meant.",
        False,
    )
    BAD_BOX = ("bad-box", "boxes that aren't four finite numbers", "Correct them.")
    EMPTY_BOX = ("empty-box", "boxes without width or height", "Correct or remove them.")
    OUTSIDE_BOX = ("outside-box", "boxes outside of their images", "Correct or remove them.")
    LEAVING_BOX = (
        "leaving-box",
        "boxes that reach beyond their images",
        "Cut them at the edge, unless they are of whole objects of which the image shows a part.",
        False,
    )
    WHOLE_BOX = (
        "whole-box",
        "boxes that cover the whole image",
        "See whether they are meant.",
        False,
    )
    BOX_CONVENTION = (
        "box-convention",
        "boxes of another convention than x y width height",
        "Correct all of them.",
    )
    DUPLICATE_OBJECT = (
        "duplicate-object",
        "objects with the class and box of another",
        "Remove them.",
        False,
    )
    BAD_SEGMENTATION = (
        "bad-segmentation",
        "segmentations that can't be read",
        "Correct them, or train without masks.",
    )
    CROSSING_POLYGON = (
        "crossing-polygon",
        "polygons whose edges cross each other",
        "Draw them anew.",
        False,
    )
    IMPLAUSIBLE_MASK = (
        "implausible-mask",
        "masks that can't be right",
        "Correct them or the boxes.",
        False,
    )
    NO_SEGMENTATION = (
        "no-segmentation",
        "objects without a mask, where others have one",
        "Draw it, or train without masks.",
        False,
    )
    TOO_MANY_OBJECTS = (
        "too-many-objects",
        "images with more objects than the model has queries",
        "Set model.num_queries higher, or cut images into tiles.",
        False,
    )
    SMALL_OBJECT = (
        "small-object",
        "objects of less than half a cell of the finest feature level",
        "Train on larger images or on tiles, add a finer level, or remove them.",
        False,
    )

    def __init__(self, code: str, what: str, remedy: str, is_error: bool = True) -> None:
        self.code = code
        self.what = what
        self.remedy = remedy
        self.is_error = is_error


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: of fault.
        detail: of this one, in a few words.
        what: has the fault, in words, where that is narrower than the kind.
        split: train, val or test, if there are some.
        file: of the image, or of labels, as the dataset names it.
        image_id, annotation_id: of the annotation file, where it is COCO's.
        image: the image's place in `ms_detr.data.check.Checked.images`.
        box: of the object that it speaks of, x, y, width, height in pixels.
    """

    kind: Kind
    detail: str
    what: str = ""
    split: str | None = None
    file: str | None = None
    image_id: int | None = None
    annotation_id: int | None = None
    image: int | None = None
    box: tuple[float, ...] | None = None

    def __str__(self) -> str:
        where = "/".join(filter(None, (self.split, self.file)))
        number = "" if self.annotation_id is None else f"annotation {self.annotation_id}"
        place = ", ".join(filter(None, (where, number)))
        return ": ".join(filter(None, (place, self.detail)))

    def as_json(self) -> dict[str, Any]:
        """Return it for a script, without what isn't known."""
        places = {
            key: value
            for key in ("split", "file", "image_id", "annotation_id")
            if (value := getattr(self, key)) is not None
        }
        return {"kind": self.kind.code, "detail": self.detail, **places}


@dataclass(frozen=True)
class Group:
    """Findings of the same words.

    Attributes:
        count: of all, also of those that weren't kept.
        findings: those that were.
    """

    kind: Kind
    what: str
    count: int
    findings: tuple[Finding, ...]


class Findings:
    """Takes findings one by one. Of each kind `KEPT` are kept, and all are counted."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Kind, str], list[Finding]] = {}
        self._count: Counter[tuple[Kind, str]] = Counter()

    def add(self, kind: Kind, detail: object, what: str = "", **place: Any) -> None:
        """Add a finding; its text becomes one line that terminals take.

        Args:
            place: see `Finding`.
        """
        key = kind, printable(what or kind.what)
        self._count[key] += 1
        kept = self._kept.setdefault(key, [])
        if len(kept) < KEPT:
            if place.get("file") is not None:
                place["file"] = printable(place["file"])
            kept.append(Finding(kind, shortened(printable(detail), 300), key[1], **place))

    def groups(self) -> list[Group]:
        """Return what was found by words, in the order of the kinds."""
        order = list(Kind)
        keys = sorted(self._kept, key=lambda key: order.index(key[0]))
        return [Group(*key, self._count[key], tuple(self._kept[key])) for key in keys]

    def __iter__(self) -> Iterator[Finding]:
        for group in self.groups():
            yield from group.findings
