"""The lists of a COCO file as columns, taken part by part, every entry checked by itself."""

from __future__ import annotations

import math
import os
import pickle
import re
import reprlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ..errors import DataError
from .packed import PackedBytes

# Exact types, for a bool is an int to isinstance.
_INT, _STR, _NUMBER, _LIST = (int,), (str,), (int, float), (list,)
_KIND_OF_VALUE = {_INT: "whole number", _STR: "string", _NUMBER: "number", _LIST: "list"}
REQUIRED_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": _INT, "file_name": _STR, "height": _NUMBER, "width": _NUMBER},
    "annotations": {"id": _INT, "image_id": _INT, "category_id": _INT, "bbox": _LIST},
    "categories": {"id": _INT, "name": _STR},
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
LARGEST_ID = 2**63  # of numpy's and torch's whole numbers
_MOST_PIXELS = 2**31  # of pycocotools' run lengths

# Bits of what is known of an annotation.
WHOLE = (1, 2, 4, 8)  # the box's numbers are written without a point
WHOLE_AREA, NO_AREA, CROWD, IGNORED = 16, 32, 64, 128

Values = Mapping[str, list[Any]]


class _Column:
    """Values that come in parts. One array grows: what many parts leave stays with the process."""

    def __init__(self) -> None:
        self._array = np.zeros(0, np.int64)
        self._count = 0

    def add(self, part: np.ndarray) -> None:
        if not len(part):
            return
        end = self._count + len(part)
        if end > len(self._array):
            grown = np.empty((max(end, 2 * len(self._array)), *part.shape[1:]), part.dtype)
            if self._count:
                grown[: self._count] = self._array[: self._count]
            self._array = grown
        self._array[self._count : end] = part
        self._count = end

    def values(self) -> np.ndarray:
        return self._array[: self._count]


class Table:
    """One of the file's lists; of the first thing that is wrong the words are kept.

    Args:
        kind: the list's name.
        json_file: for messages.
    """

    def __init__(self, kind: str, json_file: str | os.PathLike):
        self.count = 0
        self._kind = kind
        self._file = json_file
        self._columns: dict[str, _Column] = defaultdict(_Column)
        self._wrong: str | None = None  # with an entry's keys
        self._huge_ids: dict[int, int] = {}  # by row, those of more than 64 bits
        self._problem: str | None = None  # with the values

    def take(self, entries: Sequence[Any]) -> None:
        """Take a part of the list; nothing more after an entry that lacks something."""
        if self._wrong is not None:
            return
        values = self._values(entries)
        ids, huge = _whole_numbers(values["id"])
        self._huge_ids.update({self.count + row: number for row, number in huge.items()})
        self._add("id", ids)
        self._take(values, entries[: len(ids)])
        self.count += len(ids)

    def column(self, name: str) -> np.ndarray:
        """Return a column, which is forgotten here."""
        return self._columns.pop(name, _Column()).values()

    def check_ids(self) -> np.ndarray:
        """Return the ids.

        Raises:
            DataError: an entry lacks a key or has a value of the wrong kind, or an id comes twice.
        """
        ids = self.column("id")
        again = _first_repeated(ids, list(self._huge_ids))
        if again is not None:
            raise DataError(
                f"{self._file}: the id {ids[again]} comes twice in '{self._kind}' "
                f"(again at {self._kind}[{again}])."
            )
        if self._wrong is not None:
            raise DataError(self._wrong)
        if self._huge_ids:
            largest = max(map(abs, self._huge_ids.values()))
            raise DataError(
                f"{self._file}: '{self._kind}' has an id of {len(str(largest))} digits; ids are "
                "whole numbers of 64 bits."
            )
        return ids

    def check_values(self) -> None:
        """Raise DataError for the first value that can't be used."""
        if self._problem is not None:
            raise DataError(self._problem)

    def _take(self, values: Values, entries: Sequence[dict]) -> None:
        raise NotImplementedError

    def _add(self, name: str, column: np.ndarray) -> None:
        self._columns[name].add(column)

    def _values(self, entries: Sequence[Any]) -> Values:
        """Return the required values by key, of the entries before the first that is wrong."""
        keys = REQUIRED_KEYS[self._kind]
        try:
            values = {key: [entry[key] for entry in entries] for key in keys}
            if all(set(map(type, values[key])) <= set(kinds) for key, kinds in keys.items()):
                return values
        except (KeyError, TypeError, IndexError):
            pass
        good = 0
        while (wrong := self._wrong_in(entries[good], self.count + good)) is None:
            good += 1
        self._wrong = wrong
        return {key: [entry[key] for entry in entries[:good]] for key in keys}

    def _wrong_in(self, entry: Any, number: int) -> str | None:
        problem = problem_of_entry(self._kind, entry, number)
        return None if problem is None else f"{self._file}: {problem}"


def problem_of_entry(kind: str, entry: Any, number: int) -> str | None:
    """Say which key an entry of a list lacks, or has with a value of the wrong kind.

    Args:
        kind: the list's name.
        number: the entry's place in it.
    """
    for key, kinds in REQUIRED_KEYS[kind].items():
        if not isinstance(entry, dict) or key not in entry:
            return f"{kind}[{number}] lacks '{key}'."
        if type(entry[key]) not in kinds:
            return (
                f"{kind}[{number}] has {key} = {reprlib.repr(entry[key])}, "
                f"not a {_KIND_OF_VALUE[kinds]}."
            )
    return None


class Images(Table):
    """Columns: id, height, width (int64), floats (n, 2; written with a point); and names."""

    def __init__(self, json_file: str | os.PathLike):
        super().__init__("images", json_file)
        self._names: list[PackedBytes] = []

    def take(self, entries: Sequence[Any]) -> None:
        """Take a part of the list. LVIS tells an image's folder and name by its address alone."""
        super().take([*map(_with_file_name, entries)])

    def names(self) -> PackedBytes:
        """Return the file names in UTF-8."""
        return PackedBytes.joined(self._names)

    def _take(self, values: Values, entries: Sequence[dict]) -> None:
        sizes = values["height"], values["width"]
        for row in zip(range(self.count, 2**63), *sizes, values["file_name"], strict=False):
            if self._problem is None and (problem := problem_of_image(*row)):
                self._problem = f"{self._file}: {problem}"
        if self._problem is None:
            for name, numbers in zip(("height", "width"), sizes, strict=True):
                self._add(name, np.array([int(number) for number in numbers], np.int64))
            floats = [[type(number) is float for number in numbers] for numbers in sizes]
            self._add("floats", np.array(floats, bool).T)
            self._names.append(PackedBytes.of(name.encode() for name in values["file_name"]))


def _with_file_name(entry: Any) -> Any:
    url = entry.get("coco_url") if isinstance(entry, dict) and "file_name" not in entry else None
    return entry | {"file_name": "/".join(url.split("/")[-2:])} if isinstance(url, str) else entry


def problem_of_image(number: int, height: float, width: float, name: str) -> str | None:
    """Say what is wrong with the size or the file name of an image, the entry of a number."""
    whose = f"images[{number}] has"
    # Whole numbers of the kind 480.0 are common; infinity is no multiple of 1.
    if not (height > 0 and width > 0 and height % 1 == width % 1 == 0):
        return (
            f"{whose} width = {reprlib.repr(width)} and height = "
            f"{reprlib.repr(height)}: they are whole numbers of pixels above 0."
        )
    if max(height, width) >= _MOST_PIXELS or height * width >= _MOST_PIXELS:
        return (
            f"{whose} width = {reprlib.repr(width)} and height = "
            f"{reprlib.repr(height)}, more pixels than any image that can be read."
        )
    if not os.path.basename(name):
        return f"{whose} file_name = {reprlib.repr(name)}, which names no file."
    return problem_of_text(name, f"{whose} file_name")


class Categories(Table):
    """The categories, of which there are few: dicts with id and name."""

    def __init__(self, json_file: str | os.PathLike):
        super().__init__("categories", json_file)
        self.entries: list[dict[str, Any]] = []

    def _take(self, values: Values, entries: Sequence[dict]) -> None:
        for number, (key, name) in enumerate(zip(values["id"], values["name"], strict=True)):
            whose = f"{self._file}: categories[{self.count + number}] has name"
            self._problem = self._problem or problem_of_text(name, whose)
            self.entries.append({"id": key, "name": name})


class Annotations(Table):
    """Columns: id, image_id, category_id, bbox (n, 4), area (NaN: no number), facts (bits).

    Attributes:
        odd_areas: by row those that are neither numbers nor missing, shortened.
        odd_crowds: by row values of iscrowd that mean nothing, shortened.
    """

    def __init__(self, json_file: str | os.PathLike, masks: bool):
        super().__init__("annotations", json_file)
        self.odd_areas: dict[int, str] = {}
        self.odd_crowds: dict[int, str] = {}
        self._masks = masks
        self._segmentations: list[bytes] = []  # of each part, pickled: objects are large
        self._huge: dict[str, dict[int, int]] = {"image_id": {}, "category_id": {}}

    def segmentations(self) -> Iterator[Any]:
        """Yield what the file has as segmentation of each, polygons as arrays of float32."""
        return chain.from_iterable(map(pickle.loads, self._segmentations))

    def huge(self, key: str) -> dict[int, int]:
        """Return by row the image ids, or category ids, of more than 64 bits; columns have 0."""
        return self._huge[key]

    def _take(self, values: Values, entries: Sequence[dict]) -> None:
        for key, huge in self._huge.items():
            column, beyond = _whole_numbers(values[key])
            self._add(key, column)
            huge.update({self.count + row: number for row, number in beyond.items()})
        if self._problem is None:
            self._take_boxes(values)
        if self._masks:
            found = [entry.get("segmentation") for entry in entries]
            try:
                self._segmentations.append(pickle.dumps(found, protocol=5))
            except RecursionError:
                raise DataError(
                    f"{self._file} is not COCO's format: it is nested too deeply."
                ) from None
        self._add("facts", self._facts(entries))

    def _take_boxes(self, values: Values) -> None:
        boxes = values["bbox"]
        numbers = list(chain.from_iterable(boxes))
        kinds = list(map(type, numbers))
        if set(kinds) <= {int, float} and set(map(len, boxes)) <= {4}:
            try:
                column = np.array(numbers, np.float64).reshape(-1, 4)
            except OverflowError:  # a whole number of hundreds of digits
                pass
            else:
                whole = np.array([kind is int for kind in kinds], bool).reshape(-1, 4)
                self._add("bbox", column)
                self._add("whole", (whole * np.array(WHOLE, np.uint8)).sum(1, dtype=np.uint8))
                return
        wrong = next(row for row, box in enumerate(boxes) if not is_box(box))
        self._problem = (
            f"{self._file}: annotation {values['id'][wrong]} has bbox "
            f"{reprlib.repr(boxes[wrong])}, which is not four numbers [x, y, width, height]."
        )

    def _facts(self, entries: Sequence[dict]) -> np.ndarray:
        """Take areas, and tell what evaluation wants to know of each entry."""
        areas, crowds = ([entry.get(key) for entry in entries] for key in ("area", "iscrowd"))
        ignored = np.array([bool(entry.get("ignore")) for entry in entries], np.uint8)
        facts = ignored * np.uint8(IGNORED)
        kinds = set(map(type, areas))
        if kinds <= {float}:
            self._add("area", np.array(areas, np.float64))
        else:
            known = [_area(area) for area in areas]
            self._add("area", np.array([area for area, _ in known]))
            odd = {self.count + row: shown for row, (_, shown) in enumerate(known) if shown}
            self.odd_areas.update(odd)
            bits = {int: WHOLE_AREA, type(None): NO_AREA}
            facts |= np.array([bits.get(type(area), 0) for area in areas], np.uint8)
        meant = [is_crowd(crowd) for crowd in crowds]
        if None in meant:
            odd = {self.count + row: reprlib.repr(crowds[row])
                   for row, is_crowd in enumerate(meant) if is_crowd is None}  # fmt: skip
            self.odd_crowds.update(odd)
        return facts | np.array([bool(is_crowd) for is_crowd in meant], np.uint8) * np.uint8(CROWD)


def as_written(numbers: Sequence[float], facts: int, bits: Sequence[int] = WHOLE) -> list[float]:
    """Return numbers as the file has them, 1 instead of 1.0 where that is so."""
    return [
        int(number) if facts & bit else float(number)
        for number, bit in zip(numbers, bits, strict=True)
    ]


def _area(value: Any) -> tuple[float, str | None]:
    """Return an area, NaN if it is no number; and how it is shown if it is something odd."""
    if type(value) is float:
        return value, None
    if value is None:
        return math.nan, None
    if type(value) is int:
        try:
            return float(value), None
        except OverflowError:
            pass
    return math.nan, reprlib.repr(value)


def is_crowd(value: Any) -> bool | None:
    """Tell whether an annotation marks a crowd, which files write in many ways, or not at all."""
    if value == 0 or value is None or value in ("0", ""):
        return False
    return True if value in (1, "1") else None


def is_box(bbox: list) -> bool:
    """Tell whether a list is of four numbers; they may be NaN or infinite."""
    if len(bbox) != 4 or not set(map(type, bbox)) <= {int, float}:
        return False
    try:
        return len([float(value) for value in bbox]) == 4
    except OverflowError:
        return False


def _whole_numbers(values: Sequence[int]) -> tuple[np.ndarray, dict[int, int]]:
    """Return whole numbers as int64, and by row those that are too large, as they are."""
    try:
        column = np.array(values, np.int64)
        if not len(values) or column.min() > -LARGEST_ID:
            return column, {}
    except OverflowError:
        pass
    huge = {row: value for row, value in enumerate(values) if abs(value) >= LARGEST_ID}
    kept = [0 if row in huge else value for row, value in enumerate(values)]
    return np.array(kept, np.int64), huge


def _first_repeated(ids: np.ndarray, unknown: Sequence[int]) -> int | None:
    """Return the place of the first id that has come before; those at unknown places are none."""
    if not unknown and (ids[1:] > ids[:-1]).all():
        return None
    places = np.delete(np.arange(len(ids)), unknown)
    order = places[np.argsort(ids[places], kind="stable")]
    again = ids[order[1:]] == ids[order[:-1]]
    return int(order[1:][again].min()) if again.any() else None


def problem_of_text(text: str, whose: str) -> str | None:
    """Tell of half a character or a line's end, which spoil messages and paths."""
    if _CONTROL.search(text) or not (text.isascii() or _encodes(text)):
        return f"{whose} = {ascii(text)[:80]}, which is no line of text."
    return None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
