"""Images of a dataset with their objects on them, and what is wrong with these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import Metadata
from PIL import Image

from ..data.check import Checked
from ..data.check.entries import ObjectEntry
from ..data.check.findings import Finding
from ..data.images import ImageError, load_image
from ..data.segmentation import parse, to_bitmap
from ..errors import DataError, MissingFileError
from ..visualization.canvas import class_color
from ..visualization.scene import enlarged
from .inline import data_uri, webp

OF_A_KIND = 3  # pictures
ORDINARY = 6  # pictures of images that are evenly spread
WIDEST = 640  # pixels
FAULT = "#ff0033"
SMALLEST = 24  # pixels of a frame's sides: labels hide smaller ones
LABELLED = 25  # objects; in a crowd labels hide them


@dataclass(frozen=True)
class Sample:
    """A picture of an image.

    Attributes:
        source: a data URI.
    """

    caption: str
    source: str
    width: int
    height: int


def draw_samples(checked: Checked) -> tuple[list[Sample], dict[tuple, list[Sample]]]:
    """Draw ordinary images, and images of each group of findings, by its kind and words.

    What a finding speaks of is framed in dashed red. Images that can't be read are left out.
    """
    drawn = [k for k, look in enumerate(checked.looks) if look.header and look.kind is None]
    by_group = {
        (group.kind, group.what): _chosen(group.findings, set(drawn)) for group in checked.groups
    }
    ordinary = drawn[:: max(1, len(drawn) // ORDINARY)][:ORDINARY]
    images = {*ordinary, *(int(f.image or 0) for chosen in by_group.values() for f in chosen)}
    objects = _objects(checked, images)

    def draw(image: int, box: tuple[float, ...] | None, caption: str) -> Iterable[Sample]:
        try:
            yield _draw(checked, image, objects[image], box, caption)
        except (ImageError, MissingFileError):  # it has changed since
            return

    plain = [one for k in ordinary for one in draw(k, None, _name(checked, k))]
    faults = {
        key: [one for f in chosen for one in draw(int(f.image or 0), f.box, str(f))]
        for key, chosen in by_group.items()
    }
    return plain, faults


def _chosen(findings: Sequence[Finding], drawn: Collection[int]) -> list[Finding]:
    """Return some findings, of different images that can be drawn."""
    found: dict[int, Finding] = {}
    for finding in findings:
        if finding.image in drawn and len(found) < OF_A_KIND:
            found.setdefault(int(finding.image or 0), finding)
    return [*found.values()]


def _name(checked: Checked, image: int) -> str:
    entry = checked.images[image]
    return "/".join(filter(None, (entry.split, entry.name)))


def _objects(checked: Checked, images: Collection[int]) -> Mapping[int, list[ObjectEntry]]:
    """Read the objects of some images once more: masks of all would be too many to keep."""
    found: dict[int, list[ObjectEntry]] = defaultdict(list)
    for entry in checked.source.objects(checked.sizes):
        if entry.image in images:
            found[entry.image].append(entry)
    return found


def _draw(
    checked: Checked,
    image: int,
    objects: Sequence[ObjectEntry],
    faulty: tuple[float, ...] | None,
    caption: str,
) -> Sample:
    pixels, header = load_image(checked.images[image].path)
    picture = Image.fromarray(pixels)
    picture.thumbnail((WIDEST, WIDEST), Image.Resampling.BOX)
    scale = np.divide(picture.size, header.size)
    size = checked.sizes[image] or header.size
    numbers = {name: number for number, name in enumerate(checked.objects.names)}
    colors = [class_color(numbers.get(entry.category, 0)) for entry in objects]
    paper = enlarged(np.asarray(picture), Metadata())
    for entry, color in zip(objects, colors, strict=True):
        mask = _mask(entry, size, picture.size, scale)
        if mask is not None:
            paper.overlay_instances(masks=[mask], assigned_colors=[color])
    corners = _corners([entry.box for entry in objects], scale)
    told = len(numbers) > 1 and len(objects) <= LABELLED
    labels = [entry.category for entry in objects] if told else None
    paper.overlay_instances(boxes=corners, labels=labels, assigned_colors=colors)
    if faulty is not None:
        box = _seen(_corners([faulty], scale)[0])
        paper.draw_box(box, alpha=1.0, edge_color=FAULT, line_style="--")
    shown = Image.fromarray(paper.output.get_image())
    return Sample(caption, data_uri(webp(shown), "webp"), *shown.size)


def _mask(
    entry: ObjectEntry, size: tuple[int, int], shown: tuple[int, int], scale: np.ndarray
) -> np.ndarray | list[np.ndarray] | None:
    """Return a segmentation as it lies in a picture; None if there is none that can be drawn."""
    try:
        found = parse(entry.segmentation, size[1], size[0])
    except DataError:
        return None
    if isinstance(found, list):
        return [(polygon.reshape(-1, 2) * scale).reshape(-1) for polygon in found]
    bitmap = Image.fromarray(to_bitmap(found, size[1], size[0]))
    return np.asarray(bitmap.resize(shown, Image.Resampling.NEAREST))


def _corners(boxes: Sequence[Sequence[float]], scale: np.ndarray) -> np.ndarray:
    """Return boxes as corners (n, 4) in a picture; what is far off is nearer there."""
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes]).reshape(-1, 4)
    return (corners * np.tile(scale, 2)).clip(-2 * WIDEST, 2 * WIDEST)


def _seen(box: np.ndarray) -> np.ndarray:
    """Return a box of a size that can be seen."""
    middle, half = (box[:2] + box[2:]) / 2, np.maximum(np.abs(box[2:] - box[:2]) / 2, SMALLEST / 2)
    return np.concatenate((middle - half, middle + half))
