"""What a choice of keys follows from: counts of a split's images, objects and classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.annotation_cache import objects_of
from ..data.array_file import Arrays
from ..data.categories import distinct_names
from ..errors import DataError


@dataclass(frozen=True)
class Split:
    """A COCO annotation file and the folder of its images."""

    images: Path
    annotations: Path


@dataclass(frozen=True)
class Facts:
    """Counts of a split, crowds left out.

    Attributes:
        classes: all that the file lists, by ascending id.
        used: those that have an object.
        empty: images without objects.
        most: objects of the fullest image.
        most_of_class: objects of one class in an image, at most.
        masks: every object has one.
    """

    classes: tuple[str, ...]
    used: frozenset[str]
    images: int
    objects: int
    empty: int
    most: int
    most_of_class: int
    masks: bool


def facts_of(split: Split) -> Facts:
    """Count a split.

    Raises:
        DataError: its file isn't COCO's format.
    """
    try:
        arrays, masks = objects_of(split.annotations, masks=True, runs=False), True
    except DataError:  # the file's own fault comes up again
        arrays, masks = objects_of(split.annotations, masks=False, runs=False), False
    return _counted(arrays, distinct_names(arrays.facts["categories"], str(split.annotations)),
                    masks)  # fmt: skip


def _counted(arrays: Arrays, name_of: dict[int, str], masks: bool) -> Facts:
    names = [name_of[number] for number in sorted(name_of)]
    starts, counted = arrays["starts"], ~arrays["crowd"]
    image = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[counted]
    category = np.asarray(arrays["category"])[counted].astype(np.int64)
    per_image = np.bincount(image, minlength=len(starts) - 1)
    _, alike = np.unique(image * max(len(names), 1) + category, return_counts=True)
    return Facts(
        tuple(names),
        frozenset(names[number] for number in np.unique(category)),
        len(per_image),
        len(image),
        int((per_image == 0).sum()),
        int(per_image.max(initial=0)),
        int(alike.max(initial=0)),
        masks and len(image) > 0,
    )
