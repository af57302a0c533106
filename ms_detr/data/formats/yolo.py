"""YOLO, detection and segmentation: a text file an image, and a data.yaml.

The YAML file names the classes (``names``, a list or a mapping from their numbers) and, by split,
folders of images or text files that list images. The labels of ``.../images/a/b.jpg`` are
``.../labels/a/b.txt``: the last folder called images becomes labels. A line is an object, in
fractions of the upright image: ``class x y width height`` with the centre of the box, or
``class x1 y1 x2 y2 x3 y3 ...``, a polygon. An image without a file of labels has no objects.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError, listed, shortened
from ...files import reason, write_text
from .dataset import (
    IMAGES,
    SPLITS,
    Dataset,
    Listed,
    Listing,
    Object,
    Options,
    Picture,
    cut_box,
    extent,
    files_below,
    inside,
    is_degenerate,
    polygons_of_box,
    split_of,
    write_label,
)
from .label_files import read_lines
from .problems import Problems, printable

LAYOUT = "a data.yaml with names and train, images in images/, text files in labels/"
_KEYS = ("train", "val", "valid", "test")
MOST = 1 << 31  # above all numbers of classes
SLACK = 1e-4  # of width or height, by which rounding leaves the image


class _Loader(yaml.SafeLoader):
    """Leaves words and numbers as they stand there: YAML makes False of no, and 8 of 010."""

    def text(self, node: yaml.ScalarNode) -> str:
        return str(self.construct_scalar(node))

    def whole_number(self, node: yaml.ScalarNode) -> int | str:
        text = self.text(node)
        return int(text) if re.fullmatch("0|-?[1-9][0-9]*", text) else text


for _tag in ("bool", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.text)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole_number)


def recognises(folder: Path) -> bool:
    """Tell whether there is a YAML file that names classes and images."""
    return any(_is_config(path) for path in _yaml_files(folder))


def find(folder: Path, options: Options, problems: Problems) -> Listing:
    """List the images of all splits that the YAML file names; classes keep their numbers."""
    file = _config(folder)
    config = _read(file)
    if "kpt_shape" in config:
        raise DataError(f"{file} is of keypoints (kpt_shape), whose lines are not read")
    names = _names(config, file, problems)
    pictures: list[Listed] = []
    for key in _KEYS:
        for root, name in _images(config, key, file, problems):
            labels = _label_file(root / name)
            objects = partial(_objects, labels, names, problems)
            pictures.append(Listed(root / name, name, split_of(key), objects))
    if not pictures:
        why = "; ".join(["none of its train, val and test has images", *problems.lines()])
        raise DataError(f"{file}: {why}")
    _report_unlabelled(pictures, file, problems)
    _report_unused(pictures, problems)
    return Listing(pictures, {name: number for number, name in names.items()})


def elsewhere(folder: Path) -> list[Path]:
    """Return what the YAML file names that isn't below the folder: images, labels and lists."""
    file = _config(folder)
    config = _read(file)
    found: set[Path] = set()
    for key in _KEYS:
        for root, name in _images(config, key, file, Problems(folder)):
            image = root / name
            found |= {image.parent, _labels_of(image).parent}
        value = config.get(key)
        sources = value if isinstance(value, list) else [value]
        named = [_located(x, config, file) for x in sources if isinstance(x, str)]
        found |= {path for path in named if path is not None and path.is_file()}
    here = folder.resolve()
    return sorted(path for path in found if here not in path.resolve().parents)


def place(picture: Picture) -> str:
    """Return where an image is written, below the folder."""
    return f"images/{picture.split}/{picture.name}"


def write(dataset: Dataset, folder: Path, problems: Problems) -> None:
    """Write text files and data.yaml.

    Classes are numbered from 0 in the order of their ids. Polygons are written if every object
    has a single one, of which its box is the extent, for a line of either kind is read as the other
    in one file; or else boxes. Crowds and flags, which the form lacks, are left out.
    """
    names = sorted(dataset.classes, key=lambda name: dataset.classes[name])
    number_of = {name: number for number, name in enumerate(names)}
    pictures = list(inside(dataset.pictures, problems))
    polygons = all(
        len(polygons_of_box(item, picture) or ()) == 1
        for picture in pictures for item in picture.objects if not item.crowd
    )  # fmt: skip
    for picture in pictures:
        lines = []
        for item in picture.objects:
            if item.crowd:
                problems.lose_object("crowds, which YOLO has no place for", picture.name)
                continue
            if item.segmentation is not None and not polygons:
                problems.note(
                    "segmentations, of which not all are one polygon: only the box is kept",
                    picture.name,
                )
            for flag in [name for name, value in item.flags.items() if value]:
                problems.note(f"flags {flag}, which YOLO has no place for: left out", picture.name)
            numbers = _line(item, picture, polygons)
            lines.append(" ".join([str(number_of[item.category]), *map(_text, numbers)]) + "\n")
        write_label(folder / _labels_of(Path(place(picture))), "".join(lines))
    used = {picture.split for picture in pictures}
    config = {
        "path": ".",
        **{split: f"images/{split}" for split in SPLITS if split in used},
        "names": {number: name for name, number in number_of.items()},
    }
    write_text(folder / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _text(number: float) -> str:
    return f"{number:.10g}"


def _line(item: Object, picture: Picture, polygons: bool) -> list[float]:
    if polygons:
        assert isinstance(item.segmentation, list)
        sizes = (picture.width, picture.height)
        return [
            min(max(value / sizes[i % 2], 0.0), 1.0) for i, value in enumerate(item.segmentation[0])
        ]
    x, y, w, h = item.box
    across, down = picture.width, picture.height
    return [(x + w / 2) / across, (y + h / 2) / down, w / across, h / down]


def _yaml_files(folder: Path) -> list[Path]:
    files = sorted(x for x in (*folder.glob("*.yaml"), *folder.glob("*.yml")) if x.is_file())
    return sorted(files, key=lambda path: path.stem != "data")


def _is_config(path: Path) -> bool:
    try:
        keys = _read(path).keys()
    except DataError:
        return path.stem == "data"
    return not keys.isdisjoint(("names", "nc")) and not keys.isdisjoint(_KEYS)


def _config(folder: Path) -> Path:
    files = [path for path in _yaml_files(folder) if _is_config(path)]
    if not files:
        raise DataError(
            f"{folder}: there is no YAML file with names and train or val; write a data.yaml as "
            "'train: images/train', 'val: images/val' and 'names: [cat, dog]' on three lines"
        )
    if len(files) > 1 and files[0].stem != "data":
        raise DataError(
            f"{folder}: {listed(path.name for path in files)} may all be meant; call the right one "
            "data.yaml"
        )
    return files[0]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_bytes(), _Loader)
    except OSError as error:
        raise DataError(f"{file} can't be read: {reason(error)}") from error
    except Exception as error:  # PyYAML's constructors raise errors of many kinds
        text = shortened(" ".join(str(error).split()), 300)
        raise DataError(f"{file} is no YAML: {text or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no keys")
    return content


def _names(config: Mapping[str, Any], file: Path, problems: Problems) -> dict[int, str]:
    """Return the names of classes by number, no two alike."""
    value = config.get("names")
    count = config.get("nc")
    if value is None and type(count) is int and 0 < count < 1 << 16:
        value = [f"class_{number}" for number in range(count)]
    if not isinstance(value, (list, dict)) or not value:
        raise DataError(
            f"{file}: names is {_shown(value)}, neither a list nor a mapping of numbers"
        )
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    names: dict[int, str] = {}
    for number, name in pairs:
        if type(number) is not int or not 0 <= number < MOST or not _is_name(name):
            raise DataError(
                f"{file}: names has {_shown(number)}: {_shown(name)}, not a number and its name"
            )
        text = printable(name)
        if text in names.values() or not text:
            text = f"{text} (id {number})".strip()
            problems.note("class names that come twice or are empty: the number is added", text)
        names[number] = text
    if type(count) is int and count != len(names):
        problems.note(
            "counts of classes (nc) unlike the names: the names count", f"{file}: {_shown(count)}"
        )
    return names


def _is_name(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < MOST)


def _shown(value: Any) -> str:
    """Return a value for a message: aliases make small files of endless values."""
    try:
        return shortened(reprlib.repr(value))
    except ValueError:  # of a number of more digits than Python writes
        return "a number without end"


def _images(
    config: Mapping[str, Any], key: str, file: Path, problems: Problems
) -> list[tuple[Path, str]]:
    """Return a split's images as a folder and a path below it."""
    value = config.get(key)
    sources = value if isinstance(value, list) else [value] if value else []
    found: dict[Path, tuple[Path, str]] = {}
    for source in sources:
        if not isinstance(source, str):
            raise DataError(f"{file}: {key} has {_shown(source)}, neither a folder nor a file")
        path = _located(source, config, file)
        if path is None:
            problems.note("folders or lists that data.yaml names and that aren't there", source)
        elif path.is_dir():
            for name in files_below(path, IMAGES):
                found.setdefault(path / name, (path, name))
        else:
            images = [_listed_image(line, path.parent) for line in _lines(path)]
            root = os.path.commonpath([image.parent for image in images]) if images else ""
            for image in images:
                found.setdefault(image, (Path(root), image.relative_to(root).as_posix()))
    return list(found.values())


def _located(source: str, config: Mapping[str, Any], file: Path) -> Path | None:
    """Find what data.yaml names: below its ``path``, or from itself, or without a leading ``..``.

    Exports of Roboflow say ``../train/images`` where ``train/images`` is meant.
    """
    base = config.get("path")
    bases = [file.parent / base] if isinstance(base, str) else []
    source = source.replace("\\", "/")  # of Windows
    places = [root / source for root in (*bases, file.parent)]
    if source.startswith("../"):
        places.append(file.parent / source[3:])
    return next((path for path in places if path.exists()), None)


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _listed_image(line: str, folder: Path) -> Path:
    return folder.absolute() / line.replace("\\", "/")


def _labels_of(image: Path) -> Path:
    """Return the file of labels of an image: its last folder called images becomes labels."""
    parts = list(image.parts)
    for number in range(len(parts) - 2, -1, -1):
        if parts[number] == "images":
            parts[number] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _label_file(image: Path) -> Path:
    file, beside = _labels_of(image), image.with_suffix(".txt")
    return beside if beside.is_file() and not file.is_file() else file


def _report_unlabelled(pictures: Sequence[Listed], file: Path, problems: Problems) -> None:
    without = [one for one in pictures if not _label_file(one.path).is_file()]
    if len(without) == len(pictures):
        raise DataError(
            f"{file}: none of its {len(pictures):,} images has a file of labels; that of "
            f"{pictures[0].path} would be {_label_file(pictures[0].path)}"
        )
    for one in without:
        problems.note("images without a file of labels: taken to be without objects", one.path)


def _report_unused(pictures: Sequence[Listed], problems: Problems) -> None:
    used = {_label_file(picture.path) for picture in pictures}
    for folder in sorted({path.parent for path in used}):
        if folder.name == "images" or not folder.is_dir():
            continue
        for path in sorted(folder.glob("*.txt")):
            if path not in used and path.stem != "classes":
                problems.note("label files without an image: passed over", path)


def _objects(
    file: Path, names: Mapping[int, str], problems: Problems, width: int, height: int
) -> list[Object]:
    if not file.is_file():
        return []
    try:
        lines = _lines(file)
    except DataError as error:
        problems.note("label files that can't be read: without objects", error)
        return []
    objects = (
        _object(line, f"{file.name}: {line}", names, problems, width, height) for line in lines
    )
    return [item for item in objects if item is not None]


def _object(
    line: str, where: str, names: Mapping[int, str], problems: Problems, width: int, height: int
) -> Object | None:
    numbers = _numbers(line)
    if numbers is None:
        problems.lose_object("lines that aren't numbers", where)
    elif len(numbers) == 6:
        problems.lose_object("lines with a score, as predictions have", where)
    elif len(numbers) != 5 and (len(numbers) < 7 or len(numbers) % 2 == 0):
        problems.lose_object("lines of neither a box (5 numbers) nor a polygon (7, 9, ...)", where)
    elif numbers[0] not in names:
        problems.lose_object("objects whose class data.yaml has no name for", where)
    else:
        return _placed(names[int(numbers[0])], numbers[1:], where, problems, width, height)
    return None


def _placed(
    name: str, values: Sequence[float], where: str, problems: Problems, width: int, height: int
) -> Object | None:
    polygon = None
    if len(values) == 4:
        x, y, w, h = values
        box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
    else:
        if min(values) < -SLACK or max(values) > 1 + SLACK:
            problems.note("polygons that leave their image: cut at its edge", where)
        sizes = (width, height)
        polygon = [min(max(v, 0.0), 1.0) * sizes[i % 2] for i, v in enumerate(values)]
        box = extent([polygon])
    if max(values) > 2 or is_degenerate(box, width, height):
        problems.lose_object("boxes without a size in their image, in fractions of it", where)
        return None
    part = cut_box(box, width, height, where, problems)
    return Object(name, part, [polygon] if polygon else None)


def _numbers(line: str) -> list[float] | None:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
