"""Everything that is wrong with a dataset, in one pass."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, MissingFileError
from ..formats import FORMATS, Format, Options, recognise
from ..formats.coco import Part, part_of, parts
from ..formats.dataset import SPLITS
from ..formats.reading import format_of
from .coco_source import open_coco
from .entries import ImageEntry, Size, Source
from .findings import Finding, Findings, Group, Kind
from .form_source import Recorder, open_form
from .image_files import MOST_PIXELS, Look, look_at
from .limits import Limits
from .objects import Objects, place_of, read_objects
from .statistics import Statistics, measure, seen_scales

_CLAIMS = ("val", "test", "train", None)  # to an image that several splits have


@dataclass(frozen=True)
class Located:
    """A dataset that was found.

    Attributes:
        parts: its JSON files, if it is of COCO's form.
        options: how it is read.
        findings: of the way there, such as JSON files that were passed over.

    Raises:
        ConfigError: an option is of another form; or classes are chosen, of which all are checked.
    """

    folder: Path
    form: Format
    parts: tuple[Part, ...] = ()
    options: Options = field(default_factory=Options)
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        self.options.expect_for(self.form.name)
        if self.options.classes is not None:
            raise ConfigError("all classes of a dataset are checked: options can't choose some")


@dataclass(frozen=True)
class Checked:
    """What a dataset is like, and what is wrong with it.

    Attributes:
        groups: what was found, by words.
        images, looks, sizes: in one order: what the dataset lists; what the files are; width and
            height, those that labels tell first, None where nothing tells them.
        limits: that it was held against.
    """

    located: Located
    groups: tuple[Group, ...]
    images: tuple[ImageEntry, ...]
    looks: tuple[Look, ...]
    sizes: tuple[Size | None, ...]
    source: Source
    objects: Objects
    statistics: Statistics
    limits: Limits

    @property
    def findings(self) -> list[Finding]:
        """All findings that were kept."""
        return [finding for group in self.groups for finding in group.findings]

    def counts(self) -> dict[Kind, int]:
        """Return how many findings there are of each kind that there is."""
        found: dict[Kind, int] = defaultdict(int)
        for group in self.groups:
            found[group.kind] += group.count
        return dict(found)

    def as_json(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "data": str(self.located.folder),
            "format": self.located.form.name,
            "classes": list(self.objects.names),
            "findings": [
                {
                    "kind": group.kind.code,
                    "what": group.what,
                    "error": group.kind.is_error,
                    "remedy": group.kind.remedy,
                    "count": group.count,
                    "found": [finding.as_json() for finding in group.findings],
                }
                for group in self.groups
            ],
            **self.statistics.as_json(),
        }


def locate(
    data: str | os.PathLike,
    images: str | os.PathLike | None = None,
    form: str = "auto",
    options: Options | None = None,
) -> Located:
    """Find out what a dataset is.

    Args:
        data: a COCO JSON file, or a folder of any form that `ms_detr.data.formats` recognises.
        images: the folder of a JSON file's images; None if it is to be found.
        form: of a folder that may be of several.
        options: how VOC's boxes and difficult objects are read.

    Raises:
        MissingFileError: there is no such file or folder.
        DataError: the folder is of no form, or can't be read.
        ConfigError: images were given for a folder; or there is no such form, or an option is of
            another one.
    """
    data, options = Path(data), options or Options()
    named = None if form == "auto" else format_of(form)
    if data.is_file():
        if named not in (None, FORMATS["coco"]):
            raise ConfigError(f"{data} is a file: give the folder in which the data lie")
        part = part_of(data, None if images is None else Path(images))
        return Located(data, FORMATS["coco"], (part,), options)
    if images is not None:
        raise ConfigError(f"{data} is no file: only of a JSON file the folder of images is given")
    if not data.exists():
        raise MissingFileError(f"there is no file or folder {data}")
    kind = named or recognise(data)
    if kind is not FORMATS["coco"]:
        return Located(data, kind, options=options)
    findings = Findings()
    found = parts(data, Recorder(data, findings))
    order = [*SPLITS, None]
    ordered = sorted(found, key=lambda part: order.index(part.split))
    return Located(data, kind, tuple(ordered), options, tuple(findings))


def check_dataset(
    data: str | os.PathLike | Located,
    *,
    images: str | os.PathLike | None = None,
    limits: Limits | None = None,
    pixels: bool = True,
    most_pixels: int = MOST_PIXELS,
    progress: bool = False,
) -> Checked:
    """Look at everything in a dataset, and tell all that is wrong with it.

    Args:
        data, images: see `locate`.
        limits: of the model that is to be trained; None takes those of most.
        pixels: decode images, which alone finds damaged pixels and duplicates.
        most_pixels: of images of more the header alone is read.
        progress: show a bar on a terminal.

    Raises:
        UserError: the dataset can't be found or read at all.
    """
    located = data if isinstance(data, Located) else locate(data, images)
    limits, findings = limits or Limits(), Findings()
    for finding in located.findings:
        findings.add(finding.kind, finding.detail, finding.what)
    if located.parts:
        source = open_coco(located.parts, findings)
    else:
        source = open_form(located.folder, located.form, located.options, findings)
    files = [str(image.path) for image in source.images]
    found = look_at(files, most_pixels, pixels, progress)
    looks = [found[file] for file in files]
    _find_in_images(source.images, looks, findings)
    _find_copies(source.images, looks, findings)
    real = [look.header.size if look.header else None for look in looks]
    sizes = [image.told or size for image, size in zip(source.images, real, strict=True)]
    classes = source.classes or []
    entries = source.objects(sizes)
    objects = read_objects(entries, source.images, sizes, real, classes, findings)
    _find_in_classes(source, objects, findings)
    _hold_against(limits, source.images, sizes, objects, findings)
    return Checked(
        located, tuple(findings.groups()), tuple(source.images), tuple(looks), tuple(sizes),
        source, objects, measure(source.images, sizes, objects, limits), limits,
    )  # fmt: skip


def _find_in_images(
    images: Sequence[ImageEntry], looks: Sequence[Look], findings: Findings
) -> None:
    for number, (image, look) in enumerate(zip(images, looks, strict=True)):
        if look.kind is not None:
            findings.add(look.kind, look.problem, **image.place(number))
        if look.header is None or image.told is None or look.kind is Kind.DEEP_IMAGE:
            continue
        if problem := look.header.problem(*image.told):
            stored = look.header.is_stored(*image.told)
            kind = Kind.ORIENTATION if stored else Kind.IMAGE_SIZE
            findings.add(kind, problem, **image.place(number))


def _find_copies(images: Sequence[ImageEntry], looks: Sequence[Look], findings: Findings) -> None:
    """Find images of the same pixels; one of each split counts as the first."""
    for members in same_pixels(images, looks):
        first: dict[str | None, int] = {}
        for number in members:
            image = images[number]
            if image.split in first:
                detail = f"as {images[first[image.split]].name}"
                findings.add(Kind.DUPLICATE_IMAGE, detail, **image.place(number))
                continue
            if first:
                split, other = next(iter(first.items()))
                detail = f"as {'/'.join(filter(None, (split, images[other].name)))}"
                findings.add(Kind.LEAKED_IMAGE, detail, **image.place(number))
            first[image.split] = number


def same_pixels(images: Sequence[ImageEntry], looks: Sequence[Look]) -> list[list[int]]:
    """Return the places of images that share their pixels.

    Those come first that stay if one does: of val, test, train, so that what is measured stays
    whole, and of a split the first.
    """
    members: dict[bytes, list[int]] = defaultdict(list)
    for number, look in enumerate(looks):
        if look.digest is not None:
            members[look.digest].append(number)
    return [
        sorted(group, key=lambda number: _CLAIMS.index(images[number].split))
        for group in members.values()
        if len(group) > 1
    ]


def _find_in_classes(source: Source, objects: Objects, findings: Findings) -> None:
    split_of = np.array([image.split for image in source.images], object)[objects.image]
    trained = set(objects.category[split_of == "train"].tolist())
    used = set(objects.category.tolist())
    has_train = any(image.split == "train" for image in source.images)
    spelt: dict[str, str] = {}
    for name in objects.names:
        first = spelt.setdefault(_letters(name), name)
        if first != name:
            findings.add(Kind.SIMILAR_CLASSES, f"{name!r} and {first!r}")
    for number, name in enumerate(objects.names):
        if number not in used:
            if name not in source.headings:
                findings.add(Kind.UNUSED_CLASS, name)
        elif has_train and number not in trained:
            findings.add(Kind.UNTRAINED_CLASS, name)


def _letters(name: str) -> str:
    """What is left of a name without case, spaces and signs; all of it where that is nothing."""
    return "".join(filter(str.isalnum, name.casefold())) or name


def _hold_against(
    limits: Limits,
    images: Sequence[ImageEntry],
    sizes: Sequence[Size | None],
    objects: Objects,
    findings: Findings,
) -> None:
    counted = objects.counted
    counts = np.bincount(objects.image[counted], minlength=len(images))
    for number in np.flatnonzero(counts > limits.queries).tolist():
        detail = f"{counts[number]:,} objects, {limits.queries:,} queries"
        findings.add(Kind.TOO_MANY_OBJECTS, detail, **images[number].place(number))
    known = np.array([size or (0, 0) for size in sizes], np.int64).reshape(-1, 2)
    scales = seen_scales(known, limits)[objects.image]
    seen = objects.boxes[:, 2:].max(1, initial=0) * scales
    for row in np.flatnonzero(counted & (seen > 0) & (seen < limits.strides[0] / 2)).tolist():
        width, height = objects.boxes[row, 2:] * scales[row]
        place = place_of(images, objects.image[row], objects.ids[row], objects.boxes[row])
        detail = f"{width:.2g} x {height:.2g} pixels of the image that the model sees"
        findings.add(Kind.SMALL_OBJECT, detail, **place)
