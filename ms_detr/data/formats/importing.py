"""Datasets of other forms, written in COCO's, or in another: whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...errors import ConfigError, DataError
from ...files import PARTIAL, explained
from . import splits
from .dataset import SPLITS, Dataset, Options, Picture, stem
from .problems import Problems
from .reading import Format, format_of, read, recognise

AUTO = "auto"
LINKED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)  # no hard link is possible


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        form: name of the source's form.
        images, objects: counts by split.
        classes: ids by name.
        made_splits: they were made, not taken from the source.
        problems: what was left out or mended.
    """

    folder: Path
    form: str
    images: dict[str, int]
    objects: dict[str, int]
    classes: dict[str, int]
    made_splits: bool
    problems: Problems = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "folder": str(self.folder),
            "format": self.form,
            "images": self.images,
            "objects": self.objects,
            "classes": self.classes,
            "made_splits": self.made_splits,
            "left_out": dict(self.problems.lost),
            "problems": self.problems.as_json(),
        }


def import_dataset(
    form: str,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    split: Sequence[float] | None = None,
    options: Options | None = None,
    to: str = "coco",
    link: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> Imported:
    """Read a dataset of any form and write it as another, images included.

    What can't be used is left out, and told; if it is most of the dataset, that is an error. The
    target is written beside its place and moved there at the end.

    Args:
        form: coco, voc, yolo, labelme or masks; auto recognises it.
        source: folder of the dataset, which stays as it is.
        target: folder that isn't there yet, or is empty.
        split: shares of train, or of train and val, in which all images are divided anew, see
            `ms_detr.data.formats.splits`; None takes the source's splits, and divides 0.8 to 0.2
            where it has none, or a single one.
        options: how the source is read.
        to: the form that is written; masks isn't.
        link: images are links, not copies.
        strict: any problem is an error.
        progress: show bars on a terminal.

    Raises:
        ConfigError: an argument is wrong, or of another form than the source; or there is something
            in the target, or it lies in the source.
        MissingFileError: there is no such source.
        DataError: the source is of another form, or most of it can't be used; or some, if strict.
        OSError: the target can't be written.
    """
    source, target = Path(source), Path(target)
    writer, options, problems = _writer(to), options or Options(), Problems(source)
    if split is not None:
        splits.check_shares(split)
    expect_free(target)
    reader = recognise(source) if form == AUTO else format_of(form)
    expect_outside(source, target, "DST")
    dataset = read(source, reader, options, problems, progress)
    made = split is not None or not splits.has_several(dataset)
    if made:
        shares = splits.DEFAULT if split is None else split
        dataset = splits.divided(dataset, shares, problems, progress)
    else:
        dataset = splits.taken(dataset, problems)
    problems.expect_most({"images": len(dataset.pictures)}, source)
    write_dataset(dataset, writer, target, problems, link, strict, progress)
    count: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    for picture in dataset.pictures:
        count[str(picture.split)] += 1
        objects[str(picture.split)] += len(picture.objects)
    used = [name for name in SPLITS if name in count]
    return Imported(
        target,
        reader.name,
        {name: count[name] for name in used},
        {name: objects[name] for name in used},
        dataset.classes,
        made,
        problems,
    )


def write_dataset(
    dataset: Dataset,
    writer: Format,
    target: Path,
    problems: Problems,
    link: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> None:
    """Write a dataset in splits, images included: whole, or not at all.

    Args:
        problems: takes what the form has no place for.
        link, strict, progress: see `import_dataset`.

    Raises:
        DataError: something is wrong, if strict.
        OSError: the target can't be written.
    """
    dataset = _named(dataset, writer, problems)
    with _whole(target) as folder:
        assert writer.write is not None and writer.place is not None
        writer.write(dataset, folder, problems)
        if strict and problems:
            raise DataError(f"{problems.folder}: {'; '.join(problems.lines())}")
        bar = tqdm(
            dataset.pictures, "linking" if link else "copying", unit="img",
            disable=None if progress else True,
        )  # fmt: skip
        for picture in bar:
            _put(picture.path, folder / writer.place(picture), link)


def _writer(name: str) -> Format:
    form = format_of(name)
    if form.write is None:
        raise ConfigError(f"datasets of the form {name} are read, not written")
    return form


def expect_free(target: Path) -> None:
    """Raise ConfigError if there is something at the place of a folder to be written."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there already: give a new folder, or remove it")


def expect_outside(source: Path, target: Path, what: str) -> None:
    """Raise ConfigError if what is written would lie in a folder of data, which would change them.

    Args:
        what: the target's argument.
    """
    top, place = source.resolve(), target.resolve()
    if top == place or top in place.parents:
        raise ConfigError(
            f"{what} {target} lies in the data, {source}, which stay as they are: start from "
            f"another folder, or name one elsewhere with {what}"
        )


def _named(dataset: Dataset, writer: Format, problems: Problems) -> Dataset:
    """Give each image a name that stays in its folder, and that no other has but for the suffix."""
    taken: set[str] = set()
    last: dict[str, int] = {}  # numbers that were given, of names without one
    pictures = []
    for picture in dataset.pictures:
        name = _clean(picture.name)
        base, suffix = stem(name), name[len(stem(name)) :]
        plain = _key(replace(picture, name=name), writer)
        while (key := _key(replace(picture, name=name), writer)) in taken:
            last[plain] = last.get(plain, 1) + 1
            name = f"{base}-{last[plain]}{suffix}"
        if name != picture.name:
            problems.note("names of images that are changed", f"{picture.name} is {name}")
        taken.add(key)
        pictures.append(replace(picture, name=name))
    return replace(dataset, pictures=pictures)


def _key(picture: Picture, writer: Format) -> str:
    assert writer.place is not None
    return stem(writer.place(picture)).casefold()


def _clean(name: str) -> str:
    """Return a path that stays below a folder, of characters that can be printed."""
    below = os.path.normpath("/" + name.replace("\\", "/")).lstrip("/")
    return "".join(character if character.isprintable() else "_" for character in below)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Yield a new folder, which becomes the target if the block ends well, or else is removed."""
    target = target.resolve()  # a link stays
    folder = target.with_name(target.name + PARTIAL)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise ConfigError(
            f"{folder} is there already, of an import that goes on or was killed: remove it"
        ) from None
    try:
        yield folder
        with explained(target):
            if target.is_dir():
                target.rmdir()
            os.rename(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _put(source: Path, target: Path, link: bool) -> None:
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not link:
            shutil.copyfile(source, target)
            return
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            if error.errno not in LINKED:
                raise
            os.symlink(source.resolve(), target)
