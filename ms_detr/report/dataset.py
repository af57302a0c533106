"""The images that a run was evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..data import GroundTruth, coco_dataset, kept_truth, read_truth
from ..errors import DataError
from .run import Run

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


def evaluated_images(run: Run) -> Images:
    """Load the dataset of a run's evaluation once more.

    Raises:
        UserError: something is wrong with the dataset, or it isn't of a kind that is known here.
    """
    function = run.setting(f"{KEY}._target_")
    if function != COCO:
        raise DataError(
            f"{KEY} is {function}, which a report does not call: its images are left out"
        )
    name = str(run.setting(f"{KEY}.name"))
    masks = bool(run.setting(f"{KEY}.masks"))
    # In the process that has trained the classes keep the order that they have there.
    known = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog else None
    records = coco_dataset(
        name,
        run.setting(f"{KEY}.images"),
        run.setting(f"{KEY}.annotations"),
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
