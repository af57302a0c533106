"""What detections are compared with: the objects of a dataset, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dataset_dicts import Records
from .packed import PackedBytes


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The N objects of a dataset.

    Attributes:
        sizes: (height, width) in pixels by image id.
        category_ids: of classes 0, 1, ...
        class_names: likewise, all different.
        images: (N,) int64, ids.
        classes: (N,) int64.
        boxes: (N, 4) float64 as (x, y, width, height) in pixels.
        areas: (N,) float64, square pixels: of the masks in COCO, above 0.
        crowds: (N,) bool.
        masks: N compressed run lengths of the image's size; None if they weren't loaded.
    """

    sizes: Mapping[int, tuple[int, int]]
    category_ids: Sequence[int]
    class_names: Sequence[str]
    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    masks: Sequence[bytes] | None

    def objects_of_a_class(self) -> np.ndarray:
        """Count the objects of each class in each image that shows any, crowds left out."""
        pairs = np.stack([self.images, self.classes])[:, ~self.crowds]
        return np.unique(pairs, axis=1, return_counts=True)[1]


@dataclass(frozen=True, eq=False)
class _Kept:
    """What is remembered of a dataset that was loaded, beside what Detectron2's catalogs hold."""

    objects: np.ndarray  # how many each image has, crowds left out
    truth: GroundTruth | None


_kept: dict[str, _Kept] = {}


def keep(name: str, records: Records, truth: GroundTruth | None) -> None:
    """Remember how many objects a dataset's images have, and which, where they are evaluated."""
    _kept[name] = _Kept(records.objects_per_image(), truth)


def kept_truth(name: str, masks: bool = False) -> GroundTruth | None:
    """Return the objects of a dataset if they (and their masks) were kept when it was loaded."""
    truth = _kept[name].truth if name in _kept else None
    return None if truth is None or (masks and truth.masks is None) else truth


def objects_per_image(name: str) -> np.ndarray:
    """Return how many objects each image of a dataset has, crowds left out.

    Empty unless it was loaded with `ms_detr.data.coco_dataset`.
    """
    return _kept[name].objects if name in _kept else np.zeros(0, np.int64)


def ground_truth(records: Records, classes: Mapping[int, str], masks: bool) -> GroundTruth:
    """Return the objects of a dataset, in the order of its records.

    Args:
        records: with masks, of arrays that have ``runs``.
        classes: names by category id, in the order of the classes.
    """
    arrays = records.arrays
    return GroundTruth(
        _Sizes(arrays["image_id"], arrays["height"], arrays["width"]),
        list(classes),
        list(classes.values()),
        np.repeat(arrays["image_id"], np.diff(arrays["starts"])),
        records.class_of_category[arrays["category"]],
        arrays["bbox"],
        arrays["area"],
        arrays["crowd"],
        PackedBytes(arrays["runs"], arrays["run_starts"]) if masks else None,
    )


class _Sizes(Mapping[int, tuple[int, int]]):
    """Heights and widths by image id.

    Args:
        ids: (n,) ascending.
    """

    def __init__(self, ids: np.ndarray, heights: np.ndarray, widths: np.ndarray):
        self._ids, self._heights, self._widths = ids, heights, widths

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())

    def __getitem__(self, key: Any) -> tuple[int, int]:
        is_whole = isinstance(key, int | np.integer) and -(2**63) <= key < 2**63
        place = int(np.searchsorted(self._ids, key)) if is_whole else len(self._ids)
        if place == len(self._ids) or self._ids[place] != key:
            raise KeyError(key)
        return self._heights[place].item(), self._widths[place].item()
