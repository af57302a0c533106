"""COCO JSON, in the folders in which it comes, and as ms_detr's other commands take it.

Read are ``SPLIT/_annotations.coco.json`` beside the images, as Roboflow exports it;
``annotations/instances_SPLIT2017.json`` with ``SPLIT2017/`` or ``images/``; and JSON files at the
top that are called after their splits. Written are ``annotations/SPLIT.json`` and ``SPLIT/``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from ...errors import DataError, listed
from ..categories import distinct_names
from ..coco_tables import LARGEST_ID, is_crowd
from ..json_stream import read_members
from ..segmentation import parse
from .dataset import (
    Listed,
    Listing,
    Object,
    Options,
    Picture,
    is_degenerate,
    split_of,
)
from .label_files import read_json, top_keys
from .problems import Problems, printable

LAYOUT = "JSON files with images, annotations and categories, beside the images or in annotations/"
_LISTS = ("images", "annotations", "categories")
PROBED = 50  # images of a file that are looked for in a folder


def recognises(folder: Path) -> bool:
    """Tell whether there are JSON files of COCO's form."""
    for path in _candidates(folder):
        try:
            if _has_images(path):
                return True
        except DataError:
            continue
    return False


@dataclass(frozen=True)
class Part:
    """A JSON file of a dataset.

    Args:
        split: that its name tells, if it does.
        folder: of the dataset, where images are looked for.
        images: their folder; None if it is to be found.
    """

    file: Path
    split: str | None
    folder: Path
    images: Path | None = None

    def root(self, names: Sequence[str]) -> Path:
        """Return the folder in which most images are, of a sample of their names."""
        return self.images or _root(names, self.file, self.folder)


def find(folder: Path, options: Options, problems: Problems) -> Listing:
    """List the images of all JSON files; ids of classes are kept."""
    return find_in(parts(folder, problems), problems)


def parts(folder: Path, problems: Problems) -> list[Part]:
    """Return the JSON files of a folder.

    Raises:
        DataError: several are of one split, or one is no JSON.
    """
    by_split = files_by_split(folder, problems)
    for split, same in by_split.items():
        if len(same) > 1:
            raise DataError(
                f"{folder}: {listed(file.relative_to(folder) for file in same)} are all of "
                f"{'the split ' + split if split else 'no split that their names tell'}: leave one "
                "of them there"
            )
    return [Part(file, split, folder) for split, (file,) in by_split.items()]


def files_by_split(folder: Path, problems: Problems) -> dict[str | None, list[Path]]:
    """Return the annotation files by the split that their names, or their folders', tell."""
    by_split: dict[str | None, list[Path]] = defaultdict(list)
    for file in _annotation_files(folder, problems):
        by_split[_split_of(file, folder)].append(file)
    return dict(by_split)


def part_of(file: Path, images: Path | None = None) -> Part:
    """Return a JSON file that is a dataset, or a part of one, by itself."""
    above = file.parent.parent if file.parent.name == "annotations" else file.parent
    return Part(file, split_of(file.stem) or split_of(file.parent.name), above, images)


def find_in(files: Iterable[Part], problems: Problems) -> Listing:
    """List the images of JSON files.

    Raises:
        DataError: one can't be read, or isn't of COCO's form.
    """
    classes: dict[str, int] = {}
    pictures: list[Listed] = []
    for part in files:
        content = _content(part.file)
        names = _classes(content, part.file, problems)
        for number, name in names.items():
            _add_class(classes, number, name, part.file, problems)
        pictures += _pictures(content, names, part, problems)
    return Listing(pictures, classes)


def images_of(file: Path, folder: Path) -> Path:
    """Return the folder of the images that an annotation file of a dataset lists."""
    names = [
        entry["file_name"]
        for key, part, _ in read_members(file, ("images",), dict)
        if key == "images" and isinstance(part, list)
        for entry in part
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
    ]
    return _root(names, file, folder)


def place(picture: Picture) -> str:
    """Return where an image is written, below the folder."""
    return f"{picture.split}/{picture.name}"


def _candidates(folder: Path) -> list[Path]:
    """Return the JSON files where annotation files may be, but for COCO's other ones of the images.

    Captions and keypoints stand beside the instances, in files of the same names behind the prefix.
    """
    places = [folder, folder / "annotations"]
    places += [path for path in sorted(folder.iterdir()) if path.is_dir() and split_of(path.name)]
    files = [
        path
        for place in places
        if place.is_dir()
        for path in sorted(place.glob("*.json"))
        if path.is_file() and path.name[0] != "."
    ]
    known = {str(path) for path in files}
    return [
        path
        for path in files
        if not any(
            path.name.startswith(prefix)
            and str(path.with_name("instances_" + path.name[len(prefix) :])) in known
            for prefix in ("captions_", "person_keypoints_")
        )
    ]


def _annotation_files(folder: Path, problems: Problems) -> list[Path]:
    files = []
    for path in _candidates(folder):
        if _has_images(path):
            files.append(path)
        else:
            problems.note("JSON files without images and annotations: passed over", path)
    return files


def _has_images(file: Path) -> bool:
    """Tell by its outermost keys whether a JSON file is of COCO's form, and not LabelMe's.

    Raises:
        DataError: it is no JSON.
    """
    keys = set()
    for key in top_keys(file):
        keys.add(key)
        if "shapes" in keys:
            return False
        if "images" in keys and not keys.isdisjoint(("annotations", "categories")):
            return True
    return False


def _split_of(file: Path, folder: Path) -> str | None:
    return split_of(file.stem) or (split_of(file.parent.name) if file.parent != folder else None)


def _content(file: Path) -> dict[str, list[dict]]:
    try:
        content = read_json(file)
    except DataError as error:
        raise DataError(f"{file} can't be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in _LISTS):
        raise DataError(f"{file} lacks one of the lists {', '.join(_LISTS)}")
    return {key: [x if isinstance(x, dict) else {} for x in content[key]] for key in _LISTS}


def _classes(content: Mapping[str, list[dict]], file: Path, problems: Problems) -> dict[int, str]:
    """Return the names of categories by id, without a heading that no object has."""
    sound: list[dict[str, Any]] = []
    ids: set[int] = set()
    for entry in content["categories"]:
        if _is_id(entry.get("id")) and isinstance(entry.get("name"), str):
            if entry["id"] in ids:
                problems.note("categories whose id another has: passed over", f"{file}: {entry}")
                continue
            ids.add(entry["id"])
            sound.append(entry | {"name": printable(entry["name"])})
        else:
            problems.note("categories without an id or a name: passed over", f"{file}: {entry}")
    used = {entry.get("category_id") for entry in content["annotations"] if _is_key(entry)}
    over = {c.get("supercategory") for c in sound if c.get("supercategory") != c["name"]
            and isinstance(c.get("supercategory"), str)}  # fmt: skip
    kept = []
    for entry in sound:
        if entry["id"] not in used and entry["name"] in over:
            problems.note(
                "categories that only head others, without an object: passed over",
                f"{file}: {entry['name']}",
            )
        else:
            kept.append(entry)
    return distinct_names(kept, str(file))


def _is_id(value: Any) -> TypeGuard[int]:
    """Tell whether a value can be an id in what is written: a whole number of up to 64 bits."""
    return type(value) is int and abs(value) < LARGEST_ID


def _is_key(entry: Mapping) -> bool:
    return type(entry.get("category_id")) is int


def _add_class(
    classes: dict[str, int], number: int, name: str, file: Path, problems: Problems
) -> None:
    if name in classes:
        return
    if number in classes.values():
        problems.note(
            "categories whose id another file gives to another: numbered anew", f"{file}: {name}"
        )
        number = max(classes.values()) + 1
    classes[name] = number


def _pictures(
    content: Mapping[str, list[dict]],
    names: Mapping[int, str],
    part: Part,
    problems: Problems,
) -> list[Listed]:
    file = part.file
    entries: dict[int, dict] = {}
    for entry in content["images"]:
        number, name = entry.get("id"), entry.get("file_name")
        if not _is_id(number) or not isinstance(name, str) or not name.strip("/\0"):
            problems.lose_image("images without an id or a file_name", f"{file}: {entry}")
        elif number in entries:
            problems.lose_image("images whose id another has", f"{file}: {entry}")
        else:
            entries[number] = entry
    objects: dict[int, list[dict]] = defaultdict(list)
    for entry in content["annotations"]:
        number = entry.get("image_id")
        if type(number) is int and number in entries:
            objects[number].append(entry)
        else:
            problems.lose_object("annotations of no image", f"{file}: annotation {entry.get('id')}")
    root = part.root([entry["file_name"] for entry in entries.values()])
    return [
        Listed(
            root / entry["file_name"],
            entry["file_name"],
            part.split,
            partial(_objects, objects[number], names, file, problems),
            (entry.get("width"), entry.get("height")),
            number,
        )
        for number, entry in entries.items()
    ]


def _root(names: Sequence[str], file: Path, folder: Path) -> Path:
    """Return the folder in which most images are, of a sample."""
    tops = [folder, folder / "images"]
    inner = [path for top in tops if top.is_dir() for path in sorted(top.iterdir())
             if path.is_dir() and split_of(path.name) == split_of(file.stem)]  # fmt: skip
    sample = names[:: max(len(names) // PROBED, 1)]
    return max(
        [file.parent, *inner, *tops],
        key=lambda root: sum(os.path.isfile(root / name) for name in sample),
    )


def _objects(
    entries: Iterable[Mapping],
    names: Mapping[int, str],
    file: Path,
    problems: Problems,
    width: int,
    height: int,
) -> list[Object]:
    found = []
    for entry in entries:
        where = f"{file}: annotation {entry.get('id')}"
        box: Any = entry.get("bbox")
        number = entry.get("category_id")
        if type(number) is not int or number not in names:
            problems.lose_object("objects of an unknown category", f"{where} has {number!r}")
        elif not _is_box(box):
            problems.lose_object("boxes that aren't four numbers", f"{where} has {box!r}")
        elif is_degenerate(box, width, height):
            problems.lose_object("boxes without a size in their image", f"{where} has {box}")
        elif (crowd := is_crowd(entry.get("iscrowd"))) is None:
            problems.lose_object("objects whose iscrowd is not 0 or 1", where)
        else:
            x, y, w, h = map(float, box)
            found.append(
                Object(
                    names[number],
                    (x, y, w, h),
                    _segmentation(entry.get("segmentation"), width, height, where, problems),
                    crowd,
                    {k: v for k in ("difficult", "truncated") if type(v := entry.get(k)) is int},
                    _area(entry.get("area")),
                    i if _is_id(i := entry.get("id")) else None,
                )
            )
    return found


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 4 and all(type(x) in (int, float) for x in value)
        and all(abs(x) < 1e9 for x in value)
    )  # fmt: skip


def _area(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 < value < 1e18 else None


def _segmentation(
    value: Any, width: int, height: int, where: str, problems: Problems
) -> list[list[float]] | dict[str, Any] | None:
    if value is None or value in ([], {}):
        return None
    try:
        found = parse(value, height, width)
    except DataError as error:
        problems.note("segmentations that are wrong: only the box is kept", f"{where} {error}")
        return None
    if isinstance(found, dict):
        return {"size": [height, width], "counts": found["counts"].decode()}
    if len(found) < len(value):
        problems.note("polygons of less than three points: passed over", where)
    return [polygon.tolist() for polygon in found]
