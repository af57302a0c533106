"""The data as COCO's format: as they are, or converted once and kept for the next time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from ..data.formats import Format, Imported, Options, import_dataset, recognise
from ..data.formats import coco as coco_form
from ..data.formats.dataset import SPLITS, walk
from ..data.formats.problems import Problems
from ..data.formats.reading import format_of
from ..errors import DataError
from ..files import PARTIAL, write_text
from ..locks import waiting
from .facts import Split, facts_of
from .request import Request

VERSION = 1  # of what is kept
REPORT = "converted.json"
# What readers of datasets leave beside the files.
NOT_DATA = (".cache", ".image-headers", ".bad-images.txt", ".arrays", ".npy")


@dataclass(frozen=True)
class Source:
    """Data in COCO's format.

    Attributes:
        form: what they came as.
        name: for catalogs; other data have another.
        splits: by name, in the order train, val, test.
        made_splits: they were made here.
        folder: of the converted data; None where the source itself is read.
        is_new: they were converted just now.
        problems: lines about what was left out or mended.
    """

    form: str
    name: str
    splits: dict[str, Split]
    made_splits: bool = False
    folder: Path | None = None
    is_new: bool = False
    problems: tuple[str, ...] = ()


def obtain(request: Request, kept: Path, progress: bool = False) -> Source:
    """Return the data that are asked for, converted where needed.

    What was converted is kept in ``kept/NAME-DIGEST``, images as links to the source's. The digest
    is of all names, sizes and dates below the source, so changed data are converted anew. Of
    several processes one converts; the others wait. An error or Ctrl-C leaves nothing behind.

    Raises:
        ConfigError, DataError, OSError: as of `ms_detr.data.formats.import_dataset`.
    """
    form = recognise(request.folder) if request.form == "auto" else format_of(request.form)
    name = f"{request.name}-{_digest(request, form)}"
    request.options.expect_for(form.name)
    as_it_is = form.name == "coco" and request.split is None and request.options == Options()
    if as_it_is and (splits := _as_it_is(request.folder)):
        return Source(form.name, name, splits)
    target = kept / name
    waits = f"{request.folder} is being converted by another process"
    with waiting(kept / "lock", waits) as is_alone:
        report = _known(target)
        if report is not None:
            return _source(report, target, name, is_new=False)
        if is_alone:  # of a process that was killed
            for left in (target, target.with_name(target.name + PARTIAL)):
                shutil.rmtree(left, ignore_errors=True)
        imported = import_dataset(
            form.name,
            request.folder,
            target,
            split=request.split,
            options=request.options,
            link=True,
            progress=progress,
        )
        report = _report(imported, request)
        write_text(target / REPORT, json.dumps(report, indent=1))
        return _source(report, target, name, is_new=True)


def _report(imported: Imported, request: Request) -> dict:
    return imported.as_json() | {
        "version": VERSION,
        "source": str(request.folder.resolve()),
        "lines": imported.problems.lines(),
    }


def _known(target: Path) -> dict | None:
    """Return the report of data that were converted, all of which are there."""
    try:
        report = json.loads((target / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(report, dict) or report.get("version") != VERSION:
        return None
    splits = _converted_splits(report, target).values()
    return report if all(x.annotations.is_file() and x.images.is_dir() for x in splits) else None


def _source(report: dict, target: Path, name: str, is_new: bool) -> Source:
    return Source(
        report["format"],
        name,
        _converted_splits(report, target),
        report["made_splits"],
        target,
        is_new,
        tuple(report["lines"]),
    )


def _converted_splits(report: dict, target: Path) -> dict[str, Split]:
    return {
        split: Split(target / split, target / "annotations" / f"{split}.json")
        for split in report["images"]
    }


def _as_it_is(folder: Path) -> dict[str, Split]:
    """Return the splits of a COCO dataset that can be read where it lies; none if it can't.

    There are training data and others, a file each, with the same categories, all of which have an
    object: one that has none may only head others, which is left out where data are converted.
    """
    files = coco_form.files_by_split(folder, Problems(folder))
    if "train" not in files or len(files) < 2 or None in files:
        return {}
    if any(len(same) > 1 for same in files.values()):
        return {}
    splits = {
        split: Split(coco_form.images_of(files[split][0], folder), files[split][0])
        for split in SPLITS
        if split in files
    }
    try:
        facts = [facts_of(split) for split in splits.values()]
    except DataError:  # which converting leaves out, and tells
        return {}
    same = len({one.classes for one in facts}) == 1
    used = frozenset().union(*(one.used for one in facts))
    return splits if same and used == set(facts[0].classes) else {}


def _digest(request: Request, form: Format) -> str:
    """Return what changes with the data, and with how they are read."""
    digest = blake2b(digest_size=5)
    split = None if request.split is None else [float(share) for share in request.split]
    options = asdict(request.options)
    digest.update(json.dumps([VERSION, form.name, split, options]).encode())
    for root in (request.folder, *form.elsewhere(request.folder)):
        digest.update(os.fsencode(root.resolve()) + b"\0")
        for line in _stats(root):
            digest.update(line)
    return digest.hexdigest()


def _stats(root: Path) -> Iterator[bytes]:
    """Yield name, size and date of every file in a folder, or of a file."""
    if root.is_file():
        yield _stat(root, root.name)
        return
    for here, _, files in walk(root):
        if here.name.endswith(NOT_DATA):
            continue
        for name in sorted(files):
            if not name.endswith(NOT_DATA):
                yield _stat(root / here / name, str(here / name))


def _stat(path: Path, name: str) -> bytes:
    try:
        found = path.stat()
    except OSError:  # a link to nowhere
        return os.fsencode(f"{name}\0-\n")
    return os.fsencode(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n")
