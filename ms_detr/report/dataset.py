"""The images that a run was evaluated on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..data import GroundTruth, coco_dataset, kept_truth, read_truth
from ..errors import DataError
from ..evaluation import MAX_DETECTIONS

KEY = "dataloader.test.dataset"
COCO = f"{coco_dataset.__module__}.{coco_dataset.__qualname__}"  # as a config names it


@dataclass(frozen=True)
class Images:
    """A dataset as `ms_detr.data.coco_dataset` loads it.

    Attributes:
        records: by image id.
    """

    records: dict[int, dict[str, Any]]
    truth: GroundTruth
    metadata: Metadata

    @property
    def class_of(self) -> dict[int, int]:
        """The number of a class by category id."""
        return {category: k for k, category in enumerate(self.truth.category_ids)}


def evaluated_images(setting: Callable[[str], Any]) -> Images:
    """Load the dataset of an evaluation, once more where it was loaded before.

    Args:
        setting: the value of a key of the config; None where it isn't there.

    Raises:
        UserError: something is wrong with the dataset, or it isn't of a kind that is known here.
    """
    function = setting(f"{KEY}._target_")
    if callable(function):
        function = f"{function.__module__}.{function.__qualname__}"
    if function != COCO:
        raise DataError(
            f"{KEY} is {function}, which a report does not call: its images are left out"
        )
    name = str(setting(f"{KEY}.name"))
    masks = bool(setting(f"{KEY}.masks"))
    # In the process that has trained the classes keep the order that they have there.
    known = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog else None
    records = coco_dataset(
        name,
        setting(f"{KEY}.images"),
        setting(f"{KEY}.annotations"),
        masks=masks,
        trust_annotations=True,
        check_images=False,
        classes=known,
        partial=True,
        evaluated=True,
    )
    truth = kept_truth(name, masks) or read_truth(name, masks)
    by_id = {record["image_id"]: record for record in records}
    return Images(by_id, truth, MetadataCatalog.get(name))


def detection_limit(setting: Callable[[str], Any]) -> int:
    """How many detections of a class in an image an evaluation scores.

    Args:
        setting: the value of a key of the config; None where it isn't there.
    """
    return setting("dataloader.evaluator.max_detections") or MAX_DETECTIONS
