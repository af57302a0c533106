"""Datasets of other forms than COCO's, by the readers that `ms-detr import` has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..formats import Format, Options, Problems
from ..formats.dataset import Listed
from ..formats.reading import with_paths
from .entries import ImageEntry, ObjectEntry, Size, Source
from .findings import Findings, Kind


class Recorder(Problems):
    """Makes findings of the problems that a reader of labels tells."""

    def __init__(self, folder: Path, findings: Findings):
        super().__init__(folder)
        self._findings = findings

    def lose_image(self, what: str, example: object) -> None:
        super().lose_image(what, example)
        self._find(Kind.LABELS, what, example)

    def lose_object(self, what: str, example: object) -> None:
        super().lose_object(what, example)
        self._find(Kind.LABELS, what, example)

    def note(self, what: str, example: object) -> None:
        super().note(what, example)
        self._find(Kind.DOUBTFUL_LABELS, what, example)

    def _find(self, kind: Kind, what: str, example: object) -> None:
        self._findings.add(kind, self.without_folder(example), what)


def open_form(folder: Path, form: Format, options: Options, findings: Findings) -> Source:
    """List the images of a folder, and prepare to read their labels.

    Raises:
        DataError: the folder is not of the form.
    """
    problems = Recorder(folder, findings)
    listing = form.find(folder, options, problems)
    kept = [*with_paths(listing.pictures, problems)]
    images = [ImageEntry(p.path, p.name, p.split, _told(p.told), p.id) for p in kept]
    classes = None if listing.classes is None else [*listing.classes]
    return Source(form.name, images, partial(_objects, kept), classes)


def _objects(listed: Sequence[Listed], sizes: Sequence[Size | None]) -> Iterator[ObjectEntry]:
    for number, (one, size) in enumerate(zip(listed, sizes, strict=True)):
        if size is None:
            continue  # of which the image's own finding tells
        for item in one.objects(*size):
            yield ObjectEntry(
                number, item.category, item.box, item.segmentation, item.crowd, item.id
            )


def _told(value: tuple[Any, Any]) -> Size | None:
    """Return the size that labels tell if it can be one; many tools write 0 or nothing."""
    if not all(isinstance(side, (int, float)) and 0 < side < 2**31 for side in value):
        return None
    return (int(value[0]), int(value[1])) if value[0] % 1 == value[1] % 1 == 0 else None
