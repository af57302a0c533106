"""Reading an annotation file: JSON of COCO's form, every entry with its keys and their kinds."""

import json
import os
import re
import reprlib
from collections import Counter
from itertools import chain
from typing import Any, TextIO

import numpy as np

from ..errors import DataError
from ..run_folder import PREDICTIONS
from .segmentation import compact

# Exact types, for a bool is an int to isinstance.
_INT, _STR, _NUMBER, _LIST = (int,), (str,), (int, float), (list,)
_KIND_OF_VALUE = {_INT: "whole number", _STR: "string", _NUMBER: "number", _LIST: "list"}
_REQUIRED_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": _INT, "file_name": _STR, "height": _NUMBER, "width": _NUMBER},
    "annotations": {"id": _INT, "image_id": _INT, "category_id": _INT, "bbox": _LIST},
    "categories": {"id": _INT, "name": _STR},
}
_READ_KEYS = {*_REQUIRED_KEYS, *chain(*_REQUIRED_KEYS.values()), "segmentation", "iscrowd", "area"}

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_LARGEST_ID = 2**63  # of numpy's and torch's whole numbers
_MOST_PIXELS = 2**31  # of pycocotools' run lengths


def read_coco(json_file: str | os.PathLike, masks: bool) -> dict[str, list]:
    """Read a COCO-format file in UTF-8, UTF-16 or UTF-32, and check the form of its entries.

    Args:
        masks: keep the segmentations, polygons as arrays of float32. Without, they are forgotten as
            soon as they are parsed: together they would take a gigabyte for COCO.

    Returns:
        All that the file holds. The lists "images", "annotations" and "categories" have dicts with
        the keys that are needed, of the right kinds; no id comes twice; images have a size.

    Raises:
        DataError: the file is not of this form; says where.
    """
    data = _parse(json_file, masks)
    found = data if isinstance(data, dict) else {}
    lacking = [key for key in _REQUIRED_KEYS if not isinstance(found.get(key), list)]
    if lacking == ["annotations"] and "annotations" not in found:
        raise DataError(
            f"{json_file} lists images and no 'annotations', as COCO's test-dev files do: it can't "
            'be trained on or scored. For its detections alone, add "annotations": [] to a copy '
            f"of it and evaluate on that: AP is nan, and {PREDICTIONS} in the "
            "evaluator's output_dir holds what to submit."
        )
    if lacking:
        raise DataError(
            f"{json_file} is not in COCO's format: it lacks the list(s) {', '.join(lacking)}."
        )
    _check_entries(found, json_file)
    _check_images(found["images"], json_file)
    for number, category in enumerate(found["categories"]):
        _check_text(category["name"], f"{json_file}: categories[{number}] has name")
    return found


def open_json(path: str | os.PathLike) -> TextIO:
    """Open a JSON file in its encoding, which the first bytes tell."""
    with open(path, "rb") as file:
        encoding = json.detect_encoding(file.read(4))
    return open(path, encoding=encoding)


def boxes_of(annotations: list[dict], json_file: str | os.PathLike) -> np.ndarray:
    """Return the boxes (x, y, width, height) of annotations as a float64 array (n, 4).

    Raises:
        DataError: a box is not four numbers.
    """
    boxes = [annotation["bbox"] for annotation in annotations]
    kinds = set(map(type, chain.from_iterable(boxes)))
    if kinds <= {int, float} and set(map(len, boxes)) <= {4}:
        try:
            return np.array(boxes, dtype=np.float64).reshape(-1, 4)
        except OverflowError:  # a whole number of hundreds of digits
            pass
    wrong = next(a for a in annotations if not _is_box(a["bbox"]))
    raise DataError(
        f"{json_file}: annotation {wrong['id']} has bbox {reprlib.repr(wrong['bbox'])}, which is "
        "not four numbers [x, y, width, height]."
    )


def _is_box(bbox: list) -> bool:
    if len(bbox) != 4 or not set(map(type, bbox)) <= {int, float}:
        return False
    try:
        return len([float(value) for value in bbox]) == 4
    except OverflowError:
        return False


def _parse(json_file: str | os.PathLike, masks: bool) -> Any:
    repeated: list[str] = []

    def entry_of(pairs: list[tuple[str, Any]]) -> dict:
        entry = dict(pairs)
        if len(entry) != len(pairs):
            repeated.extend(_repeated(pairs))
        if masks:
            return compact(entry)
        entry.pop("segmentation", None)
        return entry

    try:
        with open_json(json_file) as file, np.errstate(over="ignore"):
            data = json.load(file, object_pairs_hook=entry_of)
    except RecursionError:
        raise DataError(f"{json_file} is not COCO's format: it is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{json_file} is not a JSON file in UTF-8: {error.reason} at byte {error.start}."
        ) from error
    except ValueError as error:
        raise DataError(f"{json_file} is not a JSON file: {error}") from error
    if repeated:
        raise DataError(f"{json_file}: {repeated[0]} twice, and only one of them can be meant.")
    return data


def _repeated(pairs: list[tuple[str, Any]]) -> list[str]:
    """Tell which keys that matter come twice in an entry, of which readers take the last."""
    counts = Counter(key for key, _ in pairs)
    whose = f"the entry of id {reprlib.repr(dict(pairs)['id'])}" if "id" in counts else "the file"
    twice = [key for key, count in counts.items() if count > 1 and key in _READ_KEYS]
    return [f"{whose} has the key '{key}'" for key in twice]


def _check_entries(data: dict[str, list], json_file: str | os.PathLike) -> None:
    """Check that every entry has its keys, and that no id comes twice."""
    for kind in ("images", "categories"):
        if not data[kind]:
            raise DataError(f"{json_file}: the list '{kind}' is empty.")
    for kind, keys in _REQUIRED_KEYS.items():
        seen = set()
        for number, entry in enumerate(data[kind]):
            for key, kinds in keys.items():
                if not isinstance(entry, dict) or key not in entry:
                    raise DataError(f"{json_file}: {kind}[{number}] lacks '{key}'.")
                if type(entry[key]) not in kinds:
                    raise DataError(
                        f"{json_file}: {kind}[{number}] has {key} = {reprlib.repr(entry[key])}, "
                        f"not a {_KIND_OF_VALUE[kinds]}."
                    )
            if entry["id"] in seen:
                raise DataError(
                    f"{json_file}: the id {entry['id']} comes twice in '{kind}' "
                    f"(again at {kind}[{number}])."
                )
            seen.add(entry["id"])
        largest = max(seen, key=abs, default=0)
        if abs(largest) >= _LARGEST_ID:
            raise DataError(
                f"{json_file}: '{kind}' has an id of {len(str(abs(largest)))} digits; ids are "
                "whole numbers of 64 bits."
            )


def _check_images(images: list[dict], json_file: str | os.PathLike) -> None:
    for number, image in enumerate(images):
        height, width = image["height"], image["width"]
        # Whole numbers of the kind 480.0 are common; infinity is no multiple of 1.
        if not (height > 0 and width > 0 and height % 1 == width % 1 == 0):
            raise DataError(
                f"{json_file}: images[{number}] has width = {reprlib.repr(width)} and height = "
                f"{reprlib.repr(height)}: they are whole numbers of pixels above 0."
            )
        if max(height, width) >= _MOST_PIXELS or height * width >= _MOST_PIXELS:
            raise DataError(
                f"{json_file}: images[{number}] has width = {reprlib.repr(width)} and height = "
                f"{reprlib.repr(height)}, more pixels than any image that can be read."
            )
        if not os.path.basename(image["file_name"]):
            raise DataError(
                f"{json_file}: images[{number}] has file_name = "
                f"{reprlib.repr(image['file_name'])}, which names no file."
            )
        _check_text(image["file_name"], f"{json_file}: images[{number}] has file_name")


def _check_text(text: str, whose: str) -> None:
    """Raise DataError for half a character or a line's end, which spoil messages and paths."""
    if _CONTROL.search(text) or not (text.isascii() or _encodes(text)):
        raise DataError(f"{whose} = {ascii(text)[:80]}, which is no line of text.")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
