"""In how many training images each class is, when it is asked for."""

from __future__ import annotations

import os

import numpy as np
from detectron2.data import MetadataCatalog

from ..errors import ConfigError
from .annotation_cache import objects_of


class ImageCounts:
    """Counts the images of each class of a dataset, from its annotation file.

    Args:
        dataset_name: of one that `ms_detr.data.coco_dataset` has loaded by the time of the call.
    """

    def __init__(self, dataset_name: str):
        self.dataset_name = dataset_name

    def __call__(self) -> list[int]:
        """Return the counts in the order of the classes.

        Raises:
            ConfigError: the dataset wasn't loaded.
        """
        metadata = MetadataCatalog.get(self.dataset_name)
        class_of = metadata.get("thing_dataset_id_to_contiguous_id")
        if class_of is None or metadata.get("json_file") is None:
            raise ConfigError(
                f"the images of each class of dataset '{self.dataset_name}' can't be counted: it "
                "wasn't loaded by ms_detr.data.coco_dataset"
            )
        arrays = objects_of(os.fspath(metadata.json_file), masks=False, runs=False)
        ids = sorted(category["id"] for category in arrays.facts["categories"])
        starts = arrays["starts"]
        images = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        pairs = np.unique(np.stack([images, arrays["category"]]), axis=1)
        counts = np.zeros(len(class_of), np.int64)
        for place, number in enumerate(np.bincount(pairs[1], minlength=len(ids)).tolist()):
            counts[class_of[ids[place]]] = number
        return counts.tolist()
