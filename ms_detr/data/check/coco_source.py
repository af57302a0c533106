"""COCO's JSON files, in which anything may be wrong: read through a window, entry by entry."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...errors import DataError
from ...paths import can_be_one
from ..coco_tables import (
    LARGEST_ID,
    REQUIRED_KEYS,
    is_box,
    is_crowd,
    problem_of_entry,
    problem_of_image,
    problem_of_text,
)
from ..formats.coco import Part
from ..json_stream import Pairs, read_members
from .entries import ImageEntry, ObjectEntry, Size, Source
from .findings import Findings, Kind

_TABLES = tuple(REQUIRED_KEYS)


def open_coco(parts: Sequence[Part], findings: Findings) -> Source:
    """Read the images and categories of JSON files, and prepare to read their annotations.

    Raises:
        DataError: a file is no JSON, or holds something else than an object.
    """
    images: list[ImageEntry] = []
    readers = [_Reader(part, images, findings) for part in parts]
    for reader in readers:
        reader.read_images()
    # In the order of the splits, that what training knows comes first.
    named = [name for reader in readers for name in reader.names()]
    headings = frozenset().union(*(reader.headings for reader in readers))
    return Source("coco", images, partial(_objects, readers), [*dict.fromkeys(named)], headings)


def _objects(readers: Sequence[_Reader], sizes: Sequence[Size | None]) -> Iterator[ObjectEntry]:
    for reader in readers:
        yield from reader.objects()


class _Reader:
    """Reads one file, once for images and categories and then for annotations.

    Args:
        images: of all files, to which those of this one are added.
    """

    def __init__(self, part: Part, images: list[ImageEntry], findings: Findings):
        self.headings: set[str] = set()
        self._part = part
        self._images = images
        self._findings = findings
        self._name_of: dict[int, str | None] = {}
        self._image_of: dict[int, int | None] = {}  # places of images, None of one that is left out
        self._place = {"split": part.split, "file": part.file.name}

    def names(self) -> list[str]:
        """Return the names of the categories in the order of their ids."""
        pairs = sorted(self._name_of.items())
        return [name for _, name in pairs if name is not None]

    def read_images(self) -> None:
        """Read images and categories."""
        found: dict[str, Any] = {}
        entries: list[tuple[Any, Size | None]] = []
        counts = dict.fromkeys(_TABLES, 0)
        for key, value, more in read_members(self._part.file, _TABLES, self._entry_of):
            if not more and key in found and key in _TABLES:
                self._add(Kind.ENTRY, f"the list '{key}' is there twice")
            found.setdefault(key, value)
            if not isinstance(value, list):
                continue
            if key == "images":
                entries += self._sound_images(value, counts[key])
            elif key == "categories":
                self._take_categories(value, counts[key])
            if key in counts:
                counts[key] += len(value)
        if not found:
            raise DataError(f"{self._part.file} is not in COCO's format: it holds no lists by name")
        for key in _TABLES:
            if not isinstance(found.get(key), list):
                self._add(Kind.ENTRY, f"there is no list '{key}'")
        root = self._part.root([entry["file_name"] for entry, _ in entries])
        for entry, told in entries:
            name, number = entry["file_name"], entry["id"]
            self._image_of[number] = len(self._images)
            self._images.append(ImageEntry(root / name, name, self._part.split, told, number))

    def objects(self) -> Iterator[ObjectEntry]:
        """Yield the objects whose image, class and box are known; tell of all that is wrong."""
        ids: set[int] = set()
        number = 0
        for key, value, _ in read_members(self._part.file, ("annotations",), dict):
            if key != "annotations" or not isinstance(value, list):
                continue
            for entry in value:
                if (item := self._object(entry, number, ids)) is not None:
                    yield item
                number += 1

    def _entry_of(self, pairs: Pairs) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            whose = reprlib.repr(entry.get("id", "none"))
            self._add(Kind.ENTRY, f"the entry of id {whose} has the key {twice!r} twice")
        return entry

    def _add(self, kind: Kind, detail: str, **place: Any) -> None:
        self._findings.add(kind, detail, **(self._place | place))

    def _sound_images(
        self, entries: Sequence[Any], start: int
    ) -> Iterator[tuple[dict[str, Any], Size | None]]:
        """Yield entries of images that have an id and a file's name, with the size if it can be."""
        for number, entry in enumerate(entries, start):
            problem = problem_of_entry("images", entry, number)
            if problem is None:
                size = entry["width"], entry["height"]
                problem = problem_of_image(number, size[1], size[0], entry["file_name"])
            if problem is not None:
                self._add(Kind.ENTRY, problem)
            key = _id(entry)
            if key is None:
                if problem is None:
                    self._add(Kind.ENTRY, f"images[{number}] has an id of more than 64 bits")
                continue
            if key in self._image_of:
                self._add(
                    Kind.DUPLICATE_ID, f"images[{number}] has the id of another", image_id=key
                )
                continue
            self._image_of[key] = None
            name = entry.get("file_name")
            if isinstance(name, str) and _names_a_file(name):
                yield entry, None if problem else (int(entry["width"]), int(entry["height"]))

    def _take_categories(self, entries: Sequence[Any], start: int) -> None:
        for number, entry in enumerate(entries, start):
            problem = problem_of_entry("categories", entry, number)
            problem = problem or problem_of_text(entry["name"], f"categories[{number}] has name")
            key = _id(entry)
            if problem is not None or key is None:
                detail = problem or f"categories[{number}] has an id of more than 64 bits"
                self._add(Kind.ENTRY, detail)
                if key is not None:
                    self._name_of.setdefault(key, None)
                continue
            if key in self._name_of:
                self._add(
                    Kind.DUPLICATE_ID, f"category {key}, {entry['name']!r}: its id is another's"
                )
                continue
            if entry["name"] in self._name_of.values():
                self._add(
                    Kind.DUPLICATE_ID, f"category {key} is called {entry['name']!r} as another"
                )
            if not entry["name"].strip():
                self._add(Kind.ENTRY, f"category {key} has no name; training makes one of its id")
            over = entry.get("supercategory")
            if isinstance(over, str) and over != entry["name"]:
                self.headings.add(over)
            self._name_of[key] = entry["name"]

    def _object(self, entry: Any, number: int, ids: set[int]) -> ObjectEntry | None:
        problem = problem_of_entry("annotations", entry, number)
        if problem is not None:
            self._add(Kind.ENTRY, problem)
            return None
        key = _id(entry)
        if key is None:
            self._add(Kind.ENTRY, f"annotations[{number}] has an id of more than 64 bits")
        elif key in ids:
            self._add(Kind.DUPLICATE_ID, f"annotations[{number}] has the id of another",
                      annotation_id=key)  # fmt: skip
        else:
            ids.add(key)
        if entry["image_id"] not in self._image_of:
            self._add(Kind.ORPHAN, f"there is no image {entry['image_id']}", annotation_id=key)
            return None
        image = self._image_of[entry["image_id"]]
        place = {"annotation_id": key}
        if image is not None:
            place = self._images[image].place(image) | place
        return self._placed(entry, image, key, place)

    def _placed(
        self, entry: Mapping[str, Any], image: int | None, key: int | None, place: dict[str, Any]
    ) -> ObjectEntry | None:
        category, box = entry["category_id"], entry["bbox"]
        is_known = category in self._name_of
        if not is_known:
            self._add(Kind.UNKNOWN_CLASS, f"there is no category {category}", **place)
        is_finite = is_box(box) and bool(np.isfinite(np.array(box, np.float64)).all())
        if not is_finite:
            self._add(Kind.BAD_BOX, reprlib.repr(box), **place)
        crowd = is_crowd(entry.get("iscrowd"))
        if crowd is None:
            value = reprlib.repr(entry["iscrowd"])
            self._add(Kind.ENTRY, f"has iscrowd = {value}, not 0 or 1", **place)
        name = self._name_of.get(category)
        if image is None or name is None or not is_finite:
            return None
        x, y, width, height = map(float, box)
        segmentation = entry.get("segmentation")
        found = None if segmentation in ([], {}) else segmentation
        return ObjectEntry(image, name, (x, y, width, height), found, bool(crowd), key)


def _id(entry: Any) -> int | None:
    """Return the id of an entry, or None if it has none that can be used."""
    value = entry.get("id") if isinstance(entry, dict) else None
    return value if type(value) is int and abs(value) < LARGEST_ID else None


def _names_a_file(name: str) -> bool:
    """Tell whether a name can be looked for."""
    return bool(os.path.basename(name)) and can_be_one(name)
