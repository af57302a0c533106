"""What every form of dataset is read into, and written from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...files import explained
from ..records import are_degenerate
from .problems import Problems

SPLITS = ("train", "val", "test")
# fmt: off
IMAGES = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm",
    ".png", ".ppm", ".tif", ".tiff", ".webp",
})
# fmt: on
_SPLIT_OF = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

Box = tuple[float, float, float, float]  # x, y, width, height in pixels, from 0


@dataclass(frozen=True)
class Object:
    """An object of an image.

    Args:
        category: name of its class.
        box: x, y, width, height in pixels; the image reaches from 0 to its width and height.
        segmentation: polygons ``[[x1, y1, x2, y2, ...], ...]``, or RLE with ``counts`` as a
            string; None if it has none.
        crowd: left out of training, and of evaluation.
        flags: further whole numbers by name, kept in the JSON: difficult, truncated.
        area: in pixels, of a source that says so.
        id: of a source that has some.
    """

    category: str
    box: Box
    segmentation: list[list[float]] | dict[str, Any] | None = None
    crowd: bool = False
    flags: dict[str, int] = field(default_factory=dict)
    area: float | None = None
    id: int | None = None


@dataclass(frozen=True)
class Picture:
    """An image with its objects.

    Args:
        path: of the file.
        name: path below the folder of its split, with ``/``, as it will be written.
        split: train, val or test; None if the source doesn't say.
        width, height: in pixels, of the upright image.
        id: of a source that has some.
    """

    path: Path
    name: str
    split: str | None
    width: int
    height: int
    objects: Sequence[Object]
    id: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Images, and the ids of classes by their names."""

    classes: dict[str, int]
    pictures: list[Picture]


@dataclass(frozen=True)
class Listed:
    """An image that a source lists, before it is looked into.

    Args:
        path, name, split, id: see `Picture`.
        objects: reads them for an image of this width and height.
        told: width and height that the source gives, if it does.
    """

    path: Path
    name: str
    split: str | None
    objects: Callable[[int, int], list[Object]]
    told: tuple[Any, Any] = (None, None)
    id: int | None = None


@dataclass(frozen=True)
class Listing:
    """The images of a source; and its classes, unless they are numbered by their names."""

    pictures: list[Listed]
    classes: dict[str, int] | None = None


# What the options may be that are of VOC alone; what comes first is taken.
VOC_OPTIONS = {
    "voc_boxes": ("auto", "one-based", "zero-based", "edges"),
    "difficult": ("crowd", "keep", "drop"),
}


@dataclass(frozen=True)
class Options:
    """How a source is read.

    Args:
        classes: names of those that are kept, in the order of their ids, from 1; None keeps all.
        voc_boxes: see `ms_detr.data.formats.voc`.
        difficult: what becomes of VOC's difficult objects: crowd, keep or drop.
    """

    classes: Sequence[str] | None = None
    voc_boxes: str = "auto"
    difficult: str = "crowd"

    def __post_init__(self) -> None:
        for name, known in VOC_OPTIONS.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, not one of {', '.join(known)}"
                )
        if not all(name.strip() for name in self.classes or ()):
            raise ConfigError("classes: a name is empty")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes: a name comes twice in {list(self.classes)}")

    def expect_for(self, form: str) -> None:
        """Raise ConfigError where an option is not of the form, and would change nothing."""
        for name, known in VOC_OPTIONS.items():
            if form != "voc" and getattr(self, name) != known[0]:
                raise ConfigError(f"{name} is of VOC's form, and the data are of the form {form}")


def split_of(name: str) -> str | None:
    """Return the split that a file or folder is called after: val for "instances_val2017.json"."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), None)


def in_split(relative: str) -> tuple[str | None, str]:
    """Return the split that a path's first folder is called after, and the path in that folder."""
    top, slash, rest = relative.partition("/")
    split = split_of(top) if slash else None
    return (split, rest) if split else (None, relative)


def files_below(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the files of some suffixes below a folder, as relative paths with ``/``, in order.

    Hidden files and folders are passed over, as is what macOS adds to archives.
    """
    return sorted(
        (here / name).as_posix()
        for here, _, files in walk(folder)
        for name in files
        if os.path.splitext(name)[1].lower() in suffixes
    )


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk as `os.walk`, in order, by relative paths; through links, but into no folder twice."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(here)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        yield Path(here).relative_to(folder), folders, [name for name in files if name[0] != "."]


def write_label(path: Path, text: str) -> None:
    """Write a small text file of many; their folder as a whole is what is moved to its place."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def stem(path: str) -> str:
    """Return a path without its suffix."""
    return os.path.splitext(path)[0]


def extent(polygons: Sequence[Sequence[float]]) -> Box:
    """Return the box round polygons, x, y, width, height."""
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    x, y = points.min(0).tolist()
    right, bottom = points.max(0).tolist()
    return x, y, right - x, bottom - y


def is_degenerate(box: Sequence[float], width: int, height: int) -> bool:
    """Tell whether a box is not finite or has no size inside its image, as the loader does."""
    numbers = np.array([box], np.float64)
    return bool(are_degenerate(numbers, np.array([[width, height]], np.float64))[0])


def cut_box(box: Box, width: int, height: int, where: str, problems: Problems) -> Box:
    """Return the part of a box that lies in its image, and tell if more than rounding is lost."""
    part = _cut(box, width, height)
    if differ(box, part):
        problems.note("boxes that leave their image: cut at its edge", where)
    return part


def inside(pictures: Iterable[Picture], problems: Problems) -> Iterator[Picture]:
    """Yield pictures whose boxes lie in their images, for forms in which no other can be."""
    for picture in pictures:
        objects = [
            replace(item, box=cut_box(item.box, picture.width, picture.height,
                                      picture.name, problems))
            for item in picture.objects
        ]  # fmt: skip
        yield replace(picture, objects=objects)


def differ(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether a side of two boxes (x, y, width, height) differs by more than half a pixel."""
    sides = [(x, y, x + w, y + h) for x, y, w, h in (a, b)]
    return any(abs(one - other) > 0.5 for one, other in zip(*sides, strict=True))


def polygons_of_box(item: Object, picture: Picture) -> list[list[float]] | None:
    """Return the polygons of an object if the box round them, cut at the image, is its own."""
    if not isinstance(item.segmentation, list):
        return None
    box = _cut(extent(item.segmentation), picture.width, picture.height)
    return None if differ(box, item.box) else item.segmentation


def _cut(box: Box, width: int, height: int) -> Box:
    x, y, w, h = box
    left, top = max(x, 0.0), max(y, 0.0)
    return left, top, min(x + w, width) - left, min(y + h, height) - top
