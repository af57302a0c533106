"""Detectron2's dataset dicts, made of arrays when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from detectron2.structures import BoxMode

from .array_file import Arrays
from .packed import PackedBytes, PackedMasks

CHUNK = 1 << 14  # images whose objects are put into one table


class ImageRecords(Sequence[dict]):
    """The images of a dataset without their objects, as dicts that are made when asked for.

    Args:
        arrays: see `ms_detr.data.records.read_objects`.
        name: of the dataset.
        image_root: folder of the files.
    """

    def __init__(self, arrays: Arrays, name: str, image_root: str):
        self.arrays = arrays
        self._name = name
        self._root = image_root
        self._names = PackedBytes(arrays["names"], arrays["name_starts"])

    def __len__(self) -> int:
        return len(self.arrays["image_id"])

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what the arrays hold, which may be pickled as the name of their file."""
        return type(self), (self.arrays, self._name, self._root)

    @overload
    def __getitem__(self, index: int) -> dict: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict]: ...
    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._record(range(len(self))[index])

    def __iter__(self) -> Iterator[dict]:
        return map(self._record, range(len(self)))

    def _record(self, number: int) -> dict[str, Any]:
        height, width = (self.arrays[side][number].item() for side in ("height", "width"))
        as_floats = self.arrays["floats"][number]
        return {
            "file_name": os.path.join(self._root, self._names[number].decode()),
            "height": float(height) if as_floats[0] else height,
            "width": float(width) if as_floats[1] else width,
            "image_id": self.arrays["image_id"][number].item(),
            "dataset_name": self._name,
        }


class Records(ImageRecords):
    """The dataset dicts of `ms_detr.data.coco_dataset`, by ascending image id.

    Every access makes a dict of its own, which may be changed, and leaves the sequence as it is.
    Loader processes share the arrays.

    Args:
        class_of: the number of a class by category id.
        masks: with the segmentations.
    """

    def __init__(
        self,
        arrays: Arrays,
        name: str,
        image_root: str,
        class_of: Mapping[int, int],
        masks: bool,
    ):
        super().__init__(arrays, name, image_root)
        self._class_of = class_of
        ids = sorted(category["id"] for category in arrays.facts["categories"])
        self.class_of_category = np.array([class_of[number] for number in ids], np.int64)
        self._masks = masks
        if masks:
            self._content = PackedBytes(arrays["masks"], arrays["mask_starts"])

    def __reduce__(self) -> tuple[Any, ...]:
        """As without objects."""
        return type(self), (self.arrays, self._name, self._root, self._class_of, self._masks)

    def images(self) -> ImageRecords:
        """Return the same without objects."""
        return ImageRecords(self.arrays, self._name, self._root)

    def objects_per_image(self) -> np.ndarray:
        """Return how many objects each image has (int64), crowds left out."""
        before = np.concatenate(([0], np.cumsum(~self.arrays["crowd"], dtype=np.int64)))
        return np.diff(before[self.arrays["starts"]])

    def tables(self) -> Iterator[np.ndarray]:
        """Yield all objects as (n, 7) float64: number of the image, class, crowd, bbox."""
        starts = self.arrays["starts"]
        for first in range(0, len(self), CHUNK):
            last = min(first + CHUNK, len(self))
            rows = slice(starts[first], starts[last])
            numbers = np.repeat(np.arange(first, last), np.diff(starts[first : last + 1]))
            classes = self.class_of_category[self.arrays["category"][rows]]
            columns = numbers, classes, self.arrays["crowd"][rows], *self.arrays["bbox"][rows].T
            yield np.stack(columns, 1, dtype=np.float64)

    def _record(self, number: int) -> dict[str, Any]:
        start, end = self.arrays["starts"][number : number + 2].tolist()
        rows = slice(start, end)
        record = super()._record(number)
        record["annotations"] = [
            # Floats, for Detectron2's transforms cut the boxes of whole numbers to whole numbers.
            {"iscrowd": crowd, "bbox": box, "category_id": k, "bbox_mode": BoxMode.XYWH_ABS}
            for crowd, box, k in zip(
                self.arrays["crowd"][rows].astype(int).tolist(),
                self.arrays["bbox"][rows].tolist(),
                self.class_of_category[self.arrays["category"][rows]].tolist(),
                strict=True,
            )
        ]
        if self._masks:
            size = np.broadcast_to([int(record["height"]), int(record["width"])], (end, 2))
            masks = PackedMasks(self._content, self.arrays["are_runs"], size)
            for item, row in zip(record["annotations"], range(start, end), strict=True):
                item["segmentation"] = masks[row]
        return record
