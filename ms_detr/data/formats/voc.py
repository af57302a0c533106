"""Pascal VOC: an XML file an image.

Read are ``Annotations/NAME.xml``, ``JPEGImages/NAME.*`` and ``ImageSets/Main/SPLIT.txt``; or
XML files beside their images, at the top or in a folder a split. Written is the first.

Of a box the devkit gives the first and the last pixel, counted from 1: xmin = 1, xmax = 10 are ten
pixels at the left edge. Many tools write other numbers into the same tags:

- one-based: as the devkit, from xmin - 1 to xmax;
- zero-based: first and last pixel counted from 0, from xmin to xmax + 1;
- edges: the edges themselves, from xmin to xmax;
- auto: one-based, unless a box that has a size begins at less than 1; then all of the dataset are
  edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ...errors import DataError
from ...files import write_text
from .dataset import (
    IMAGES,
    SPLITS,
    Box,
    Dataset,
    Listed,
    Listing,
    Object,
    Options,
    Picture,
    cut_box,
    files_below,
    in_split,
    inside,
    is_degenerate,
    split_of,
    stem,
    write_label,
)
from .label_files import read_xml
from .problems import Problems, printable

LAYOUT = "XML files in Annotations/, images in JPEGImages/, or both side by side"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_SHIFTS = {"one-based": (-1, 0), "zero-based": (0, 1), "edges": (0, 0)}
_LABELS, _PICTURES, _SETS = "Annotations", "JPEGImages", Path("ImageSets", "Main")


@dataclass(frozen=True)
class _Entry:
    """An object; its corners as they are written, NaN for what is no number."""

    name: str
    corners: Sequence[float]
    flags: Mapping[str, int]
    where: str  # for messages

    @property
    def has_a_size(self) -> bool:
        """Whether the corners are a box's; what is none, such as four zeros, tells nothing."""
        left, top, right, bottom = self.corners
        return math.isfinite(sum(self.corners)) and left < right and top < bottom


@dataclass(frozen=True)
class _Label:
    """What an XML file says."""

    file: str
    filename: str
    size: tuple[float, float]
    objects: Sequence[_Entry]


def recognises(folder: Path) -> bool:
    """Tell whether the first XML file is of this form."""
    labels = files_below(folder, {".xml"})
    if not labels:
        return False
    try:
        return read_xml(folder / labels[0]).tag == "annotation"
    except DataError:
        return (folder / _LABELS).is_dir()


def find(folder: Path, options: Options, problems: Problems) -> Listing:
    """List the images that have an XML file and, if there are splits, lie in one."""
    apart = (folder / _LABELS).is_dir()
    label_root = folder / _LABELS if apart else folder
    image_root = folder / _PICTURES if (folder / _PICTURES).is_dir() else folder
    labels = _labels(label_root, problems)
    images: dict[str, list[str]] = {}
    for name in files_below(image_root, IMAGES):
        images.setdefault(stem(name), []).append(name)
    convention = _convention(labels.values(), options, problems)
    splits = _image_sets(folder, problems)
    taken: dict[str, str] = {}
    pictures = []
    for key, label in labels.items():
        name = _image_of(key, label, images, image_root)
        taken[stem(name)] = name
        split, written = in_split(name)
        if splits:
            split, written = splits.get(key), name
            if split is None:
                problems.lose_image("images in none of ImageSets/Main's lists", label.file)
                continue
        objects = partial(_objects, label, convention, options.difficult, problems)
        pictures.append(Listed(image_root / name, written, split, objects, label.size))
    for key, name in sorted(taken.items()):
        for other in sorted(set(images.get(key, ())) - {name}):
            problems.note("images whose name another has but for the suffix: passed over", other)
    for key in sorted(images.keys() - taken.keys()):
        problems.lose_image("images without an XML file that can be read", images[key][0])
    for key in sorted(splits.keys() - labels.keys()):
        problems.note("names in ImageSets/Main without an XML file: passed over", key)
    return Listing(pictures)


def place(picture: Picture) -> str:
    """Return where an image is written, below the folder."""
    return f"{_PICTURES}/{picture.name}"


def write(dataset: Dataset, folder: Path, problems: Problems) -> None:
    """Write XML files and the lists of splits.

    Boxes are one-based, with decimals where they don't end between pixels. A crowd is difficult.
    Segmentations, which the form lacks, are left out.
    """
    for picture in inside(dataset.pictures, problems):
        for item in picture.objects:
            if item.segmentation is not None:
                problems.note(
                    "segmentations, which VOC has no place for: only the box is kept", picture.name
                )
        write_label(folder / _LABELS / f"{stem(picture.name)}.xml", _xml(picture))
    for split in SPLITS:
        names = [stem(p.name) for p in dataset.pictures if p.split == split]
        if names:
            write_text(folder / _SETS / f"{split}.txt", "\n".join([*names, ""]))


def _labels(root: Path, problems: Problems) -> dict[str, _Label]:
    """Read all XML files, by their paths without suffix."""
    found = {}
    for name in files_below(root, {".xml"}):
        try:
            tree = read_xml(root / name)
            if tree.tag != "annotation":
                raise DataError(f"its outermost tag is <{tree.tag}>, not <annotation>")
        except DataError as error:
            problems.note("XML files that can't be read: passed over", f"{name}: {error}")
            continue
        if stem(name) in found:
            problems.note("XML files of one name but for the suffix: the last one counts", name)
        found[stem(name)] = _Label(
            name,
            _text(tree, "filename"),
            (_number(tree, "size/width"), _number(tree, "size/height")),
            [_entry(item, name) for item in tree.iterfind("object")],
        )
    return found


def _entry(item: Element, file: str) -> _Entry:
    flags = {key: int(_text(item, key) == "1") for key in ("difficult", "truncated")
             if _text(item, key)}  # fmt: skip
    paths = [f"bndbox/{side}" for side in _SIDES]
    name = _text(item, "name")
    where = " ".join([f"{file}: {name}", *(_text(item, path) for path in paths)])
    return _Entry(name, [_number(item, path) for path in paths], flags, where)


def _text(tree: Element, path: str) -> str:
    return printable(tree.findtext(path) or "")


def _number(tree: Element, path: str) -> float:
    try:
        return float(_text(tree, path))
    except ValueError:
        return math.nan


def _image_of(
    key: str, label: _Label, images: Mapping[str, Sequence[str]], image_root: Path
) -> str:
    """Return the image of an XML file: that of its name, or else the one which it names."""
    named = (Path(key).parent / Path(label.filename.replace("\\", "/")).name).as_posix()
    same = images.get(key, ())
    if same:
        return named if named in same else same[0]
    if label.filename and named in images.get(stem(named), ()):
        return named
    return f"{key}.jpg"  # which is missing, and reported


def _convention(labels: Iterable[_Label], options: Options, problems: Problems) -> str:
    if options.voc_boxes != "auto":
        return options.voc_boxes
    for label in labels:
        for item in label.objects:
            if item.has_a_size and min(item.corners[:2]) < 1:
                problems.note(
                    "sign that boxes are edges from 0, not pixels from 1 (voc_boxes settles it)",
                    item.where,
                )
                return "edges"
    return "one-based"


def _image_sets(folder: Path, problems: Problems) -> dict[str, str]:
    """Return the splits of names; trainval, which VOC has beside both, fills a gap."""
    files = sorted((folder / _SETS).glob("*.txt")) if (folder / _SETS).is_dir() else []
    files = [x for x in files if x.is_file() and split_of(x.stem) and "_" not in x.stem]
    files.sort(key=lambda path: path.stem == "trainval")
    found: dict[str, str] = {}
    for path in files:
        for line in path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            name = line.strip()
            split = split_of(path.stem)
            if not name or not split:
                continue
            if found.setdefault(name, split) != split and path.stem != "trainval":
                problems.note(f"names in two lists: taken as {found[name]}", name)
    return found


def _objects(
    label: _Label, convention: str, difficult: str, problems: Problems, width: int, height: int
) -> list[Object]:
    first, last = _SHIFTS[convention]
    found = []
    for item in label.objects:
        where = item.where
        left, top, right, bottom = item.corners
        box = left + first, top + first, right - left + last - first, bottom - top + last - first
        if not item.name:
            problems.lose_object("objects without a name", where)
        elif not all(map(math.isfinite, item.corners)):
            problems.lose_object("boxes that aren't four numbers", where)
        elif is_degenerate(box, width, height):
            problems.lose_object("boxes without a size in their image", where)
        elif item.flags.get("difficult") and difficult == "drop":
            problems.lose_object("difficult objects", where)
        else:
            if (left, top) == (right, bottom):
                problems.note("boxes of one pixel, as a click leaves them: kept", where)
            part = cut_box(box, width, height, where, problems)
            crowd = bool(item.flags.get("difficult")) and difficult == "crowd"
            found.append(Object(item.name, part, None, crowd, dict(item.flags)))
    return found


def _xml(picture: Picture) -> str:
    root = Element("annotation")
    SubElement(root, "folder").text = _PICTURES
    SubElement(root, "filename").text = Path(picture.name).name
    size = SubElement(root, "size")
    for tag, number in (("width", picture.width), ("height", picture.height), ("depth", 3)):
        SubElement(size, tag).text = str(number)
    SubElement(root, "segmented").text = "0"
    for item in picture.objects:
        element = SubElement(root, "object")
        SubElement(element, "name").text = item.category
        SubElement(element, "truncated").text = str(item.flags.get("truncated", 0))
        SubElement(element, "difficult").text = str(
            int(item.crowd or item.flags.get("difficult", 0))
        )
        box = SubElement(element, "bndbox")
        for side, value in zip(_SIDES, _corners(item.box), strict=True):
            SubElement(box, side).text = f"{round(value, 4):.12g}"
    indent(root, "\t")
    return tostring(root, encoding="unicode")


def _corners(box: Box) -> tuple[float, float, float, float]:
    """Return a box as the devkit writes it; see the module."""
    x, y, width, height = box
    return x + 1, y + 1, x + width, y + height
