"""How many, and how large, the images and objects of a dataset are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .entries import ImageEntry, Size
from .limits import Limits
from .objects import Objects

COCO_SIDES = (32, 96)  # pixels; below small, from there on large
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


def measure(
    images: Sequence[ImageEntry], sizes: Sequence[Size | None], objects: Objects, limits: Limits
) -> Statistics:
    """Count images and objects; crowds, and boxes that no part of their image is in, are none."""
    names = [image.split or ALL for image in images]
    split_of = np.array(names, object)
    order = sorted(set(names), key=lambda name: ("train", "val", "test", ALL).index(name))
    counted = objects.fine & ~objects.crowd
    image = objects.image[counted]
    per_image = np.bincount(image, minlength=len(images))
    sides = np.sqrt(objects.boxes[counted, 2:].prod(1))
    splits = {}
    for name in order:
        inside = split_of == name
        rows = inside[image]
        splits[name] = Split(
            int(inside.sum()),
            int((per_image[inside] == 0).sum()),
            int(rows.sum()),
            int((inside[objects.image] & objects.crowd).sum()),
            _by_class(objects, counted, rows),
            _by_size(sides[rows]),
            int(per_image[inside].max(initial=0)),
        )
    known = np.array([size or (0, 0) for size in sizes], np.int64).reshape(-1, 2)
    seen = sides * seen_scales(known, limits)[image]
    histograms = _histograms(
        split_of, order, known, image, per_image, sides, seen, objects.boxes[counted], limits
    )
    return Statistics(splits, histograms, _levels(seen[seen > 0], limits))


def seen_scales(sizes: np.ndarray, limits: Limits) -> np.ndarray:
    """Return by how much images (n, 2) are enlarged for the model; 0 where no size is known."""
    scales = np.zeros(len(sizes))
    known = (sizes > 0).all(1)
    if known.any():
        scales[known] = limits.scales(sizes[known])
    return scales


def _by_class(objects: Objects, counted: np.ndarray, rows: np.ndarray) -> dict[str, int]:
    counts = np.bincount(objects.category[counted][rows], minlength=len(objects.names))
    return dict(zip(objects.names, counts.tolist(), strict=True))


def _by_size(sides: np.ndarray) -> dict[str, int]:
    counts = np.bincount(np.digitize(sides, COCO_SIDES), minlength=3)
    return dict(zip(("small", "medium", "large"), counts.tolist(), strict=True))


def _levels(seen: np.ndarray, limits: Limits) -> dict[int, list[int]]:
    return {
        stride: np.bincount(np.digitize(seen / stride, CELLS), minlength=len(CELLS) + 1).tolist()
        for stride in limits.strides
    }


def _histograms(
    split_of: np.ndarray,
    order: Sequence[str],
    sizes: np.ndarray,
    image: np.ndarray,
    per_image: np.ndarray,
    sides: np.ndarray,
    seen: np.ndarray,
    boxes: np.ndarray,
    limits: Limits,
) -> list[Histogram]:
    known = (sizes > 0).all(1)
    by_image, by_object = split_of, split_of[image]
    most = int(per_image.max(initial=1))
    step = max(1, -(-most // 40))
    marks = {f"{limits.queries} queries": limits.queries + 0.5}

    def made(title: str, xlabel: str, values: np.ndarray, of: np.ndarray, edges: np.ndarray,
             **more: Any) -> Histogram:  # fmt: skip
        counts = {name: np.histogram(values[of == name], edges)[0] for name in order}
        return Histogram(title, xlabel, edges, counts, **more)

    return [
        made("objects an image", "objects", per_image, by_image,
             np.arange(0, most + step + 1, step) - 0.5,
             marks=marks if limits.queries <= 2 * most else {}),
        made("side of objects", "root of the box's area, pixels of the image", sides, by_object,
             _octaves(sides), log=True,
             marks={"small": COCO_SIDES[0], "large": COCO_SIDES[1]}),
        made("side of objects as the model sees them",
             "root of the box's area, pixels of the resized image", seen[seen > 0],
             by_object[seen > 0], _octaves(seen[seen > 0]), log=True,
             marks={f"stride {stride}": stride for stride in limits.strides}),
        made("shape of objects", "width / height", boxes[:, 2] / boxes[:, 3], by_object,
             _octaves(boxes[:, 2] / boxes[:, 3]), log=True),
        made("size of images", "root of width times height, pixels",
             np.sqrt(sizes[known].prod(1, dtype=np.float64)), by_image[known],
             _octaves(np.sqrt(sizes[known].prod(1, dtype=np.float64))), log=True),
    ]  # fmt: skip


def _octaves(values: np.ndarray) -> np.ndarray:
    """Return edges around values above 0: four an octave, at whole quarters of one."""
    if not len(values):
        return np.array([1.0, 2.0])
    low, high = np.log2(values.min()), np.log2(values.max())
    first = np.floor(4 * low)
    return 2 ** (np.arange(first, max(np.floor(4 * high), first) + 2) / 4)
