"""A mended copy of a dataset: what can be mended for sure is, and the rest is told."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..formats import FORMATS, Dataset, Format, Object, Options, Picture, Problems, read
from ..formats.coco import find_in
from ..formats.dataset import Listing, cut_box, is_degenerate
from ..formats.importing import expect_free, expect_outside, write_dataset
from ..formats.splits import has_several, taken
from ..segmentation import parse, to_runs
from .checking import Checked, check_dataset, same_pixels
from .polygons import crosses_itself

NEAR = 2  # pixels by which the size that labels tell may be off for the image's to take its place


@dataclass(frozen=True)
class Mended:
    """What was written.

    Attributes:
        images, objects: how many.
        problems: what was mended or left out.
        rest: what is still found in the copy.
    """

    folder: Path
    form: str
    images: int
    objects: int
    problems: Problems = field(repr=False)
    rest: Checked = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "folder": str(self.folder),
            "format": self.form,
            "images": self.images,
            "objects": self.objects,
            "mended": self.problems.as_json(),
            "left": {kind.code: count for kind, count in self.rest.counts().items()},
        }


def write_mended(
    checked: Checked, target: str | os.PathLike, link: bool = False, progress: bool = False
) -> Mended:
    """Write a copy of a dataset without what can be mended, in the form that it has.

    Masks of one image an object become COCO's form. Images that can't be used, and copies of
    others, are left out, of an image in several splits those in train first; so are objects without
    a class, or without a box in their image. Boxes are cut at the edge. A polygon whose edges cross
    becomes the pixels that it stands for. The copy is checked, so that what is left is known.

    Args:
        target: folder that isn't there yet, or is empty.
        link: images are links, not copies.
        progress: show bars on a terminal.

    Raises:
        ConfigError: there is something in the target, or it lies in the dataset's folder.
        DataError: most of the dataset can't be used.
        OSError: the target can't be written.
    """
    target = Path(target)
    expect_free(target)
    located = checked.located
    folder = located.folder.parent if located.folder.is_file() else located.folder
    if folder == located.folder:
        expect_outside(folder, target, "--fix")
    problems = Problems(folder)
    dataset = read(folder, _reader(checked), located.options, problems, progress)
    unusable = _unusable(checked)
    pictures = [
        _mended(picture, problems)
        for picture in dataset.pictures
        if not _is_left_out(picture, unusable, problems)
    ]
    problems.expect_most({"images": len(pictures)}, folder)
    dataset = _in_splits(replace(dataset, pictures=pictures), problems)
    if not dataset.pictures:
        raise DataError(f"{folder}: no image is left to be written")
    writer = located.form if located.form.write else FORMATS["coco"]
    write_dataset(dataset, writer, target, problems, link, progress=progress)
    rest = check_dataset(target, limits=checked.limits, progress=progress)
    objects = sum(len(picture.objects) for picture in dataset.pictures)
    return Mended(target, writer.name, len(dataset.pictures), objects, problems, rest)


def _reader(checked: Checked) -> Format:
    """Return the form of a dataset, so that it reads the very files that were checked."""
    located = checked.located
    if not located.parts:
        return located.form

    def find(folder: Path, options: Options, problems: Problems) -> Listing:
        return find_in(located.parts, problems)

    return replace(located.form, find=find)


def _unusable(checked: Checked) -> dict[tuple[str, str | None], str]:
    """Return why images are left out, in the plural, by path and split."""
    found = {}
    for image, look in zip(checked.images, checked.looks, strict=True):
        key = str(image.path), image.split
        if look.kind is not None:
            found[key] = look.kind.what
        elif look.header and image.told:
            off = np.abs(np.subtract(look.header.size, image.told)).max()
            if off > NEAR or look.header.is_stored(*image.told):
                found[key] = "images of another size than their labels say, by more than rounding"
    for first, *copies in same_pixels(checked.images, checked.looks):
        kept = checked.images[first]
        for number in copies:
            image = checked.images[number]
            if image.path != kept.path:  # of one file an entry is left already
                found.setdefault(
                    (str(image.path), image.split), "images of the same pixels as others"
                )
    return found


def _is_left_out(
    picture: Picture, unusable: dict[tuple[str, str | None], str], problems: Problems
) -> bool:
    why = unusable.get((str(picture.path), picture.split))
    if why is not None:
        problems.lose_image(why, picture.path)
    return why is not None


def _mended(picture: Picture, problems: Problems) -> Picture:
    seen: Counter[tuple] = Counter()
    objects = []
    for item in picture.objects:
        where = f"{picture.name}: {item.category} {[round(x, 1) for x in item.box]}"
        box = cut_box(item.box, picture.width, picture.height, where, problems)
        if is_degenerate(box, picture.width, picture.height):
            problems.lose_object("boxes without a size in their image", where)
            continue
        key = item.category, item.box, item.crowd
        seen[key] += 1
        if seen[key] > 1 and not item.crowd:
            problems.lose_object("objects with the class and box of another", where)
            continue
        objects.append(_uncrossed(replace(item, box=box), picture, where, problems))
    return replace(picture, objects=objects)


def _uncrossed(item: Object, picture: Picture, where: str, problems: Problems) -> Object:
    """Make a polygon whose edges cross the pixels that it covers."""
    size = picture.height, picture.width
    if not isinstance(item.segmentation, list):
        return item
    polygons = parse(item.segmentation, *size)
    if not any(map(crosses_itself, polygons)):
        return item
    problems.note("polygons whose edges cross: the pixels that they cover took their place", where)
    counts = to_runs(polygons, *size)["counts"]
    return replace(item, segmentation={"size": [*size], "counts": counts.decode()})


def _in_splits(dataset: Dataset, problems: Problems) -> Dataset:
    if has_several(dataset):
        return taken(dataset, problems)
    split = next((p.split for p in dataset.pictures if p.split), "train")
    return replace(dataset, pictures=[replace(p, split=split) for p in dataset.pictures])
