"""The forms that are known, which of them a folder is of, and what is in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from ...errors import ConfigError, DataError, MissingFileError, shortened
from ...paths import can_be_one
from ..image_headers import Found, examine
from . import coco, coco_writing, labelme, masks, voc, yolo
from .dataset import Dataset, Listed, Listing, Object, Options, Picture
from .problems import Problems

_CLAIMS = ("val", "test", "train", None)  # splits to an image that several have


@dataclass(frozen=True)
class Format:
    """A form of dataset.

    Args:
        name: for commands.
        layout: what a folder of it looks like, for messages.
        recognises: tells, from a few files, whether a folder is of it.
        find: lists the images of a folder.
        place: says where an image is written, below the folder; None if it isn't written.
        write: writes everything but the images.
        elsewhere: names the folders and files outside of a folder of it that it consists of.
    """

    name: str
    layout: str
    recognises: Callable[[Path], bool]
    find: Callable[[Path, Options, Problems], Listing]
    place: Callable[[Picture], str] | None = None
    write: Callable[[Dataset, Path, Problems], None] | None = None
    elsewhere: Callable[[Path], list[Path]] = lambda folder: []


FORMATS = {
    form.name: form
    for form in (
        Format("coco", coco.LAYOUT, coco.recognises, coco.find, coco.place, coco_writing.write),
        Format("voc", voc.LAYOUT, voc.recognises, voc.find, voc.place, voc.write),
        Format("yolo", yolo.LAYOUT, yolo.recognises, yolo.find, yolo.place, yolo.write,
               yolo.elsewhere),
        Format("labelme", labelme.LAYOUT, labelme.recognises, labelme.find,
               labelme.place, labelme.write),
        Format("masks", masks.LAYOUT, masks.recognises, masks.find),
    )
}  # fmt: skip


def format_of(name: str) -> Format:
    """Return a form by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in FORMATS:
        raise ConfigError(f"'{name}' is no form of dataset; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def recognise(folder: Path) -> Format:
    """Tell which form a folder is of.

    Raises:
        MissingFileError: there is no such folder.
        DataError: it is of none, or of several.
    """
    _expect_folder(folder)
    found = [form for form in FORMATS.values() if form.recognises(folder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{folder} may be of the forms {', '.join(form.name for form in found)}: name the one "
            "that is meant"
        )
    known = "; ".join(f"{form.name}: {form.layout}" for form in FORMATS.values())
    raise DataError(f"{folder} is of no form that is known ({known})")


def read(
    folder: Path, form: Format, options: Options, problems: Problems, progress: bool = False
) -> Dataset:
    """Read a dataset.

    Args:
        problems: takes what is wrong, which is left out or mended.

    Returns:
        Its images in the order of their paths, without those that can't be used.

    Raises:
        MissingFileError: there is no such folder.
        DataError: it is not of the form, or most of it can't be used.
        ConfigError: an option is of another form.
    """
    _expect_folder(folder)
    options.expect_for(form.name)
    listing = form.find(folder, options, problems)
    listed = _each_once(with_paths(listing.pictures, problems), problems)
    listed.sort(key=lambda one: str(one.path))
    headers = examine([str(one.path) for one in listed])
    bar = tqdm(listed, f"reading {form.name}", disable=None if progress else True, unit="img")
    pictures = [
        picture
        for one in bar
        if (picture := _picture(one, headers[str(one.path)], problems)) is not None
    ]
    objects = sum(len(picture.objects) for picture in pictures)
    problems.expect_most({"images": len(pictures), "objects": objects}, folder)
    if not pictures:
        raise DataError(f"{folder}: no image of the form {form.name} ({form.layout})")
    return _with_classes(pictures, listing.classes, options, problems)


def _expect_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder}")


def with_paths(pictures: Iterable[Listed], problems: Problems) -> Iterator[Listed]:
    """Pass over images whose names the system doesn't take."""
    for listed in pictures:
        if can_be_one(listed.path):
            yield listed
        else:
            problems.lose_image("images whose names no file can have", listed.name)


def _each_once(pictures: Iterable[Listed], problems: Problems) -> list[Listed]:
    """Keep one entry of a file that is listed several times, also by its links."""
    found: dict[str, Listed] = {}
    for listed in pictures:
        place = os.path.realpath(listed.path)
        other = found.setdefault(place, listed)
        if other is listed:
            continue
        if other.split == listed.split:
            problems.note("images that are listed twice: taken once, as listed first", listed.path)
            continue
        # What is measured stays whole.
        kept, left = sorted((other, listed), key=lambda one: _CLAIMS.index(one.split))
        problems.note(f"images of two splits: taken for {kept.split}, not {left.split}", kept.path)
        found[place] = kept
    return list(found.values())


def _side(value: float) -> str:
    return shortened(int(value) if value == value // 1 else value, 12)


def _picture(listed: Listed, found: Found, problems: Problems) -> Picture | None:
    if found.header is None:
        what = "images that are missing" if found.is_missing else "images that can't be read"
        problems.lose_image(what, listed.path if found.is_missing else found.problem)
        return None
    if problem := found.header.problem():
        problems.lose_image("images that can't be used", f"{listed.path} {problem}")
        return None
    width, height = found.header.size
    told = listed.told
    if found.header.is_stored(*told):
        problems.lose_image(
            "images whose labels have the size before the image is turned upright (by its "
            "orientation tag): remove the tag if boxes fit the stored pixels, else swap width and "
            "height",
            listed.path,
        )
        return None
    if found.header.orientation != 1 and (width, height) == (
        found.header.width,
        found.header.height,
    ):
        problems.note(
            "images that are turned by a tag, and keep their size: labels are taken to be of the "
            "upright image",
            listed.path,
        )
    if all(isinstance(side, (int, float)) and side > 0 for side in told) and told != (
        width,
        height,
    ):
        problems.note(
            "images of another size than their labels say: boxes stay as they are",
            f"{listed.path} is {width} x {height}, not {' x '.join(map(_side, told))}",
        )
    objects = listed.objects(width, height)
    return Picture(listed.path, listed.name, listed.split, width, height, objects, listed.id)


def _with_classes(
    pictures: Sequence[Picture],
    classes: dict[str, int] | None,
    options: Options,
    problems: Problems,
) -> Dataset:
    """Number the classes, and leave out the objects of those that aren't wanted."""
    used = {item.category for picture in pictures for item in picture.objects}
    if options.classes is None:
        names = {name: number for number, name in enumerate(sorted(used), 1)}
        return _expect_classes(Dataset(names if classes is None else classes, list(pictures)))
    names = {name: number for number, name in enumerate(options.classes, 1)}
    if missing := sorted(names.keys() - used - (classes or {}).keys()):
        raise ConfigError(
            f"classes: there is no {', '.join(missing)}; the dataset has {', '.join(sorted(used))}"
        )

    def is_kept(item: Object) -> bool:
        if item.category not in names:
            problems.note("objects of other classes than were asked for: left out", item.category)
        return item.category in names

    kept = [replace(p, objects=[*filter(is_kept, p.objects)]) for p in pictures]
    return Dataset(names, kept)


def _expect_classes(dataset: Dataset) -> Dataset:
    if not dataset.classes:
        raise DataError("no image has an object, and no file tells the classes")
    return dataset
