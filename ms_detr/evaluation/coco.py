"""COCO's box and mask AP.

The evaluator stands on pycocotools and not on Detectron2's COCOEvaluator. That one differs between
the versions that we support in just the methods that would have to be overridden, gives NaN for a
model that predicts nothing, and scores one set of detections in a pass; ours scores the same
detections with and without NMS, since duplicates are what one-to-one supervision has to remove.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

from ..data.coco import is_crowd, is_degenerate
from ..data.coco_json import open_json
from ..data.segmentation import SegmentationCheck, to_runs
from ..files import write_text
from ..structures import NonFiniteError
from .table import CLASS_PREFIX, METRICS, format_results
from .unwritten import keeping

logger = logging.getLogger(__name__)

PREDICTIONS = "coco_instances_results.json"  # Detectron2's name
RESULTS = "results.json"


class CocoEvaluator(DatasetEvaluator):
    """Box AP, and mask AP, of detections on a COCO-format dataset, in percent.

    Args:
        dataset_name: registered with Detectron2, see `ms_detr.data.coco_dataset`.
        output_dir: where detections (COCO's result format) and results go; None writes nothing.
        nms_threshold: evaluate also after class-wise NMS at this IoU, as ``bbox_nms``.
        distributed: gather the detections of all processes.
        masks: evaluate the masks too, as ``segm``, and as ``segm_nms`` those of the detections
            that are left after NMS of their boxes.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        nms_threshold: float | None = None,
        distributed: bool = True,
        masks: bool = False,
    ):
        if nms_threshold is not None and not 0 <= nms_threshold <= 1:
            raise ValueError(
                f"dataloader.evaluator.nms_threshold is an IoU from 0 to 1, got {nms_threshold}"
            )
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._nms_threshold = nms_threshold
        self._distributed = distributed
        self._kinds = ("bbox", "segm") if masks else ("bbox",)
        self._ground_truth: COCO | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the detections of an earlier pass."""
        self._detections: list[dict[str, Any]] = []
        self._survives: list[bool] = []  # NMS, for every detection
        self._broken: list[Any] = []  # ids of images whose detections are NaN or infinite

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Take the detections of a batch. Masks are kept as compressed RLE.

        Args:
            inputs: with ``image_id``.
            outputs: with ``instances``: pred_boxes in pixels of the image file, scores,
                pred_classes; with masks pred_masks, bool (n, H, W) of the image file.
        """
        for x, output in zip(inputs, outputs, strict=True):
            instances = self._fields(output["instances"]).to("cpu")
            values = (instances.scores, instances.pred_boxes.tensor)
            if not all(value.isfinite().all() for value in values):
                self._broken.append(x["image_id"])
                continue
            self._detections += instances_to_coco_json(instances, x["image_id"])
            if self._nms_threshold is not None:
                self._survives += _nms(instances, self._nms_threshold)

    def _fields(self, instances: Instances) -> Instances:
        """What is evaluated of an image's detections: masks cost time, wanted or not."""
        fields = {**instances.get_fields()}
        masks = fields.pop("pred_masks", None)
        if "segm" in self._kinds:
            if masks is None:
                raise ValueError(
                    "the model predicts no masks: evaluate one that has a mask branch, or set "
                    "dataloader.masks=false"
                )
            fields["pred_masks"] = masks
        return Instances(instances.image_size, **fields)

    def evaluate(self) -> Mapping[str, Any]:
        """Score all detections.

        Returns:
            In the main process ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>",
            ...}}``, with ``bbox_nms``, ``segm`` and ``segm_nms`` if asked for; nothing in others.
            Without any detection AP is 0, without any object (of that size, of that class) NaN.
            An object's size is the file's ``area``; a detection's is its box's in ``bbox``, its
            mask's in ``segm``.

        Raises:
            NonFiniteError: in all processes, if detections of any aren't finite: COCO's metric
                would count a box of NaN as found.
            ValueError: the dataset has no annotation file, or a detection has a class, image or
                size of mask that it doesn't know; with masks, a segmentation is missing or wrong.
            UnwrittenError: the files can't be written; it has the results.
        """
        detections, survives, broken = self._detections, self._survives, [self._broken]
        if self._distributed:
            broken = comm.all_gather(self._broken)
        _check_finite(list(itertools.chain.from_iterable(broken)))
        if self._distributed:
            parts = comm.gather((detections, survives))
            if not comm.is_main_process():
                return {}
            detections = list(itertools.chain.from_iterable(part[0] for part in parts))
            survives = list(itertools.chain.from_iterable(part[1] for part in parts))
        detections = self._with_category_ids(detections)
        found = {"": detections}
        if self._nms_threshold is not None:
            found["_nms"] = list(itertools.compress(detections, survives))
        truth, names = self._truth(), self._class_names()
        results = OrderedDict(
            (kind + suffix, score(truth, some, names, kind))
            for kind in self._kinds
            for suffix, some in found.items()
        )
        logger.info("%d detections\n%s", len(detections), format_results(results))
        with keeping(results):
            self._write(PREDICTIONS, detections)
            self._write(
                RESULTS,
                {
                    task: {name: None if math.isnan(v) else v for name, v in values.items()}
                    for task, values in results.items()
                },
            )
        return results

    def _truth(self) -> COCO:
        if self._ground_truth is None:
            path = MetadataCatalog.get(self._dataset_name).get("json_file")
            if path is None:
                raise ValueError(
                    f"dataset '{self._dataset_name}' has no COCO annotation file: load it with "
                    "ms_detr.data.coco_dataset first"
                )
            with open_json(path) as file:
                content = json.load(file)
            self._ground_truth = ground_truth(content, str(path), "segm" in self._kinds)
        return self._ground_truth

    def _class_names(self) -> dict[int, str]:
        """Names by category id, in the order of the model's classes."""
        metadata = MetadataCatalog.get(self._dataset_name)
        id_of = {k: i for i, k in metadata.thing_dataset_id_to_contiguous_id.items()}
        return {id_of[k]: metadata.thing_classes[k] for k in sorted(id_of)}

    def _with_category_ids(self, detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
        metadata = MetadataCatalog.get(self._dataset_name)
        to_class = metadata.get("thing_dataset_id_to_contiguous_id")
        if to_class is None:
            raise ValueError(
                f"the categories of dataset '{self._dataset_name}' are unknown: load it with "
                "ms_detr.data.coco_dataset first"
            )
        id_of = {k: i for i, k in to_class.items()}
        images = self._truth().imgs
        for detection in detections:
            if detection["category_id"] not in id_of:
                raise ValueError(
                    f"a detection has class {detection['category_id']}, but dataset "
                    f"'{self._dataset_name}' has classes 0 to {len(id_of) - 1}: set "
                    f"model.num_classes={len(id_of)}"
                )
            if detection["image_id"] not in images:
                raise ValueError(
                    f"image {detection['image_id']} isn't in dataset '{self._dataset_name}': "
                    "dataloader.evaluator.dataset_name must name the dataset of dataloader.test"
                )
            image, runs = images[detection["image_id"]], detection.get("segmentation")
            if runs is not None and runs["size"] != [image["height"], image["width"]]:
                raise ValueError(
                    f"the masks of image {image['id']} are {runs['size']}, the image is "
                    f"{[image['height'], image['width']]} ([height, width]): pred_masks must have "
                    "the size of the image file"
                )
        return [{**d, "category_id": id_of[d["category_id"]]} for d in detections]

    def _write(self, name: str, content: Any) -> None:
        if self._output_dir is not None:
            write_text(Path(self._output_dir, name), json.dumps(content))


def read_results(folder: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """What an evaluator wrote into its ``output_dir``; NaN where nothing could be measured."""
    content = json.loads(Path(folder, RESULTS).read_text(encoding="utf-8"))
    return {
        task: {name: math.nan if value is None else value for name, value in values.items()}
        for task, values in content.items()
    }


def ground_truth(content: Mapping[str, Any], json_file: str, masks: bool = False) -> COCO:
    """Annotations for pycocotools, with what it needs but many files lack.

    Annotations are numbered from 1, since COCOeval takes 0 for "no match"; an ``area`` that is no
    number becomes the mask's, without masks the box's; ``iscrowd`` and degenerate boxes are treated
    as in training, and so are segmentations.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    annotations: list[dict[str, Any]] = []
    segmentation_of = SegmentationCheck(json_file)
    for annotation in content["annotations"]:
        box, area = annotation["bbox"], annotation.get("area")
        width, height = sizes[annotation["image_id"]]
        if is_degenerate(box, width, height):
            continue
        filled: dict[str, Any] = {
            "id": len(annotations) + 1,
            "area": box[2] * box[3],
            "iscrowd": int(is_crowd(annotation, json_file)),
        }
        if masks and (segmentation := segmentation_of(annotation, height, width)) is not None:
            filled["segmentation"] = to_runs(segmentation, int(height), int(width))
            filled["area"] = int(coco_mask.area(filled["segmentation"]))
        if isinstance(area, (int, float)):
            filled["area"] = area
        annotations.append({**annotation, **filled})
    segmentation_of.report()
    return _index({**content, "annotations": annotations})


def score(
    truth: COCO, detections: Sequence[Mapping], names: Mapping[int, str], kind: str = "bbox"
) -> dict[str, float]:
    """COCO's metrics in percent.

    Args:
        detections: in COCO's result format.
        names: of the classes, by category id.
        kind: what is compared with the objects: "bbox" or "segm", the masks.
    """
    # loadRes adds fields, and takes a detection's area from its box wherever there is one.
    unwanted = "bbox" if kind == "segm" else "segmentation"
    detections = [{k: v for k, v in d.items() if k != unwanted} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        if detections:
            found = truth.loadRes(detections)
        else:
            found = _index({**truth.dataset, "annotations": []})  # loadRes can't
        scoring = COCOeval(truth, found, kind)
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    # COCOeval writes -1 where there is no object.
    results = {
        name: float(value) * 100 if value >= 0 else math.nan
        for name, value in zip(METRICS, scoring.stats, strict=False)
    }
    # precision: (IoU thresholds, recalls, categories, areas, numbers of detections)
    precision = scoring.eval["precision"][:, :, :, 0, -1]
    for index, category in enumerate(scoring.params.catIds):
        values = precision[:, :, index]
        values = values[values > -1]
        results[CLASS_PREFIX + names[category]] = (
            float(np.mean(values)) * 100 if values.size else math.nan
        )
    return results


def _check_finite(broken: Sequence[Any]) -> None:
    """Raise NonFiniteError if there are images with broken detections."""
    if broken:
        names = ", ".join(map(str, broken[:8])) + (", ..." if len(broken) > 8 else "")
        raise NonFiniteError(
            f"the model predicts boxes or scores that are NaN or infinite on {len(broken)} images "
            f"(ids {names}): its weights are broken. Use an earlier checkpoint; if training has "
            "led here, lower optimizer.lr"
        )


def _index(content: Mapping[str, Any]) -> COCO:
    """A COCO object of a dataset that was read already."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.copy(dict(content))
        coco.createIndex()
    return coco


def _nms(instances: Instances, threshold: float) -> list[bool]:
    """Which detections of an image survive class-wise NMS."""
    kept = batched_nms(
        instances.pred_boxes.tensor, instances.scores, instances.pred_classes, threshold
    )
    survives = np.zeros(len(instances), dtype=bool)
    survives[kept.numpy()] = True
    return survives.tolist()
