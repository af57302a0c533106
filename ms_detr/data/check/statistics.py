"""How many, and how large, the images and objects of a dataset are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..areas import SIDES
from ..formats.dataset import SPLITS
from .entries import ImageEntry, Size
from .limits import Limits
from .objects import Objects

ALL = "all"  # what a dataset without splits is called
CELLS = (1, 4, 16)  # bounds of the side of an object, in cells of a level


@dataclass(frozen=True)
class Split:
    """Counts of a split.

    Attributes:
        empty: images without objects; crowds are none.
        by_class, by_size: objects; sizes are COCO's small, medium and large, by the box.
        most: objects of the fullest image.
    """

    images: int
    empty: int
    objects: int
    crowds: int
    by_class: Mapping[str, int]
    by_size: Mapping[str, int]
    most: int

    def as_json(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "images": self.images,
            "images_without_objects": self.empty,
            "objects": self.objects,
            "crowds": self.crowds,
            "most_objects_in_an_image": self.most,
            "by_class": dict(self.by_class),
            "by_size": dict(self.by_size),
        }


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, by split.

    Attributes:
        edges: (n + 1,); a value at an edge belongs to what follows, at the last one to the last.
        counts: (n,) by split.
        log: the edges are spaced by a factor.
        marks: values that mean something, with their names.
    """

    title: str
    xlabel: str
    edges: np.ndarray
    counts: Mapping[str, np.ndarray]
    log: bool = False
    marks: Mapping[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "title": self.title,
            "edges": self.edges.tolist(),
            "counts": {split: counts.tolist() for split, counts in self.counts.items()},
        }


@dataclass(frozen=True)
class Statistics:
    """What a dataset is like.

    Attributes:
        levels: objects by the stride of a feature level and by their side in its cells: less than
            1, 4, 16, and more.
    """

    splits: Mapping[str, Split]
    histograms: Sequence[Histogram]
    levels: Mapping[int, Sequence[int]]

    def as_json(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "splits": {name: split.as_json() for name, split in self.splits.items()},
            "histograms": [histogram.as_json() for histogram in self.histograms],
            "levels": {str(stride): list(counts) for stride, counts in self.levels.items()},
        }


@dataclass(frozen=True)
class _Counted:
    """I images, and N objects in them.

    Attributes:
        split: (I,) names.
        sizes: (I, 2) width and height, 0 where they aren't known.
        per_image: (I,) objects.
        image: (N,) places of images.
        boxes: (N, 4) x, y, width, height.
        sides: (N,) roots of the boxes' areas, in pixels of the image.
        seen: (N,) the same in pixels of the image that the model sees; 0 where it isn't known.
    """

    split: np.ndarray
    sizes: np.ndarray
    per_image: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    sides: np.ndarray
    seen: np.ndarray


def measure(
    images: Sequence[ImageEntry], sizes: Sequence[Size | None], objects: Objects, limits: Limits
) -> Statistics:
    """Count images and objects; crowds, and boxes that no part of their image is in, are none."""
    names = [image.split or ALL for image in images]
    order = sorted(set(names), key=lambda name: (*SPLITS, ALL).index(name))
    known = np.array([size or (0, 0) for size in sizes], np.int64).reshape(-1, 2)
    image, boxes = objects.image[objects.counted], objects.boxes[objects.counted]
    sides = np.sqrt(boxes[:, 2:].prod(1))
    counted = _Counted(
        np.array(names, object),
        known,
        np.bincount(image, minlength=len(images)),
        image,
        boxes,
        sides,
        sides * seen_scales(known, limits)[image],
    )
    splits = {name: _split(counted, objects, name) for name in order}
    levels = _levels(counted.seen[counted.seen > 0], limits)
    return Statistics(splits, _histograms(counted, order, limits), levels)


def _split(counted: _Counted, objects: Objects, name: str) -> Split:
    inside = counted.split == name
    rows = inside[counted.image]
    per_image = counted.per_image[inside]
    classes = objects.category[objects.counted][rows]
    by_class = np.bincount(classes, minlength=len(objects.names)).tolist()
    by_size = np.bincount(np.digitize(counted.sides[rows], SIDES), minlength=3).tolist()
    return Split(
        int(inside.sum()),
        int((per_image == 0).sum()),
        int(rows.sum()),
        int((inside[objects.image] & objects.crowd).sum()),
        dict(zip(objects.names, by_class, strict=True)),
        dict(zip(("small", "medium", "large"), by_size, strict=True)),
        int(per_image.max(initial=0)),
    )


def seen_scales(sizes: np.ndarray, limits: Limits) -> np.ndarray:
    """Return by how much images (n, 2) are enlarged for the model; 0 where no size is known."""
    scales = np.zeros(len(sizes))
    known = (sizes > 0).all(1)
    if known.any():
        scales[known] = limits.scales(sizes[known])
    return scales


def _levels(seen: np.ndarray, limits: Limits) -> dict[int, list[int]]:
    return {
        stride: np.bincount(np.digitize(seen / stride, CELLS), minlength=len(CELLS) + 1).tolist()
        for stride in limits.strides
    }


def _histograms(counted: _Counted, order: Sequence[str], limits: Limits) -> list[Histogram]:
    most = int(counted.per_image.max(initial=1))
    step = max(1, -(-most // 40))
    queries = {f"{limits.queries} queries": limits.queries + 0.5}
    by_object = counted.split[counted.image]
    known, seen = (counted.sizes > 0).all(1), counted.seen > 0

    def made(
        title: str, xlabel: str, values: np.ndarray, split: np.ndarray,
        edges: np.ndarray | None = None, marks: Mapping[str, float] | None = None,
    ) -> Histogram:  # fmt: skip
        bounds = _octaves(values) if edges is None else edges
        counts = {name: np.histogram(values[split == name], bounds)[0] for name in order}
        return Histogram(title, xlabel, bounds, counts, edges is None, marks)

    return [
        made(
            "objects an image", "objects", counted.per_image, counted.split,
            np.arange(0, most + step + 1, step) - 0.5,
            queries if limits.queries <= 2 * most else None,
        ),
        made(
            "side of objects", "root of the box's area, pixels of the image", counted.sides,
            by_object, marks={"small": SIDES[0], "large": SIDES[1]},
        ),
        made(
            "side of objects as the model sees them",
            "root of the box's area, pixels of the resized image", counted.seen[seen],
            by_object[seen], marks={f"stride {stride}": stride for stride in limits.strides},
        ),
        made("shape of objects", "width / height", counted.boxes[:, 2] / counted.boxes[:, 3],
             by_object),
        made("size of images", "root of width times height, pixels",
             np.sqrt(counted.sizes[known].prod(1, dtype=np.float64)), counted.split[known]),
    ]  # fmt: skip


def _octaves(values: np.ndarray) -> np.ndarray:
    """Return edges around values above 0: four an octave, at whole quarters of one."""
    if not len(values):
        return np.array([1.0, 2.0])
    low, high = np.log2(values.min()), np.log2(values.max())
    first = np.floor(4 * low)
    return 2 ** (np.arange(first, max(np.floor(4 * high), first) + 2) / 4)
