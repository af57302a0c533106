"""COCO's box and mask AP.

Not Detectron2's COCOEvaluator: that one differs between the versions that we support in just the
methods that would have to be overridden, gives NaN for a model that predicts nothing, and scores
one set of detections in a pass; ours scores the same detections with and without NMS, since
duplicates are what one-to-one supervision has to remove.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from ..data import GroundTruth, class_names, kept_truth, read_truth
from ..errors import ConfigError, DataError, NonFiniteError, listed
from .detections import Detections, ImageDetections
from .results import write_results
from .scoring import MAX_DETECTIONS, in_percent, metric_names, score_classes
from .table import format_results

logger = logging.getLogger(__name__)


class CocoEvaluator(DatasetEvaluator):
    """Evaluates boxes, and masks, on a COCO-format dataset: COCO's AP in percent.

    Args:
        dataset_name: known to Detectron2, see `ms_detr.data.coco_dataset`.
        output_dir: where detections (COCO's result format) and results go; None writes nothing.
        nms_threshold: evaluate also after class-wise NMS at this IoU, as ``bbox_nms``.
        distributed: gather the detections of all processes.
        masks: evaluate the masks too, as ``segm``, and as ``segm_nms`` those of the detections
            that are left after NMS of their boxes.
        max_detections: so many of a class in an image take part, those of the highest scores.
            Published results on COCO have 100.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        nms_threshold: float | None = None,
        distributed: bool = True,
        masks: bool = False,
        max_detections: int = MAX_DETECTIONS,
    ):
        if nms_threshold is not None and not 0 <= nms_threshold <= 1:
            raise ConfigError(
                f"dataloader.evaluator.nms_threshold is an IoU from 0 to 1, got {nms_threshold}"
            )
        if not isinstance(max_detections, int) or max_detections < 1:
            raise ConfigError(
                "dataloader.evaluator.max_detections must be a whole number of at least 1, got "
                f"{max_detections!r}"
            )
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._nms_threshold = nms_threshold
        self._distributed = distributed
        self._kinds = ("bbox", "segm") if masks else ("bbox",)
        self._max_detections = max_detections
        # If the dataset was loaded, its limits are checked at once, and not after hours.
        self._truth = kept_truth(dataset_name, masks)
        if self._truth is not None:
            self._warn_of_limit(self._truth)
        self.reset()

    def reset(self) -> None:
        """Forget the detections of an earlier pass."""
        self._images: list[ImageDetections] = []
        self._broken: list[Any] = []  # ids of images whose detections are NaN or infinite

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Take the detections of a batch. Masks are kept as compressed RLE.

        Args:
            inputs: with ``image_id``.
            outputs: with ``instances``: pred_boxes in pixels of the image file, scores,
                pred_classes; with masks pred_masks, bool (n, H, W) of the image file.
        """
        masks = "segm" in self._kinds
        for x, output in zip(inputs, outputs, strict=True):
            instances = _evaluated(output["instances"], masks).to("cpu")
            values = (instances.scores, instances.pred_boxes.tensor)
            if all(value.isfinite().all() for value in values):
                found = ImageDetections.of(x["image_id"], instances, self._nms_threshold, masks)
                self._images.append(found)
            else:
                self._broken.append(x["image_id"])

    def evaluate(self) -> Mapping[str, Any]:
        """Score all detections, each process those of its share of the classes.

        Returns:
            In the main process by task, ``bbox``, with ``segm``, ``bbox_nms`` and ``segm_nms`` if
            asked for, the metrics of `ms_detr.evaluation.scoring.in_percent`; nothing in others.
            Without any detection AP is 0, without any object (of that size, of that class)
            NaN. An object's size is the file's ``area`` where that can be right (see
            `ms_detr.data.ground_truth`); a detection's is its box's in ``bbox``, its mask's in
            ``segm``.

        Raises:
            NonFiniteError: in all processes, if detections of any aren't finite: COCO's metric
                would count a box of NaN as found.
            ConfigError: a detection is of a class or an image that the dataset doesn't have.
            DataError: the dataset has no annotation file; or, with masks, a segmentation is missing
                or wrong.
            ValueError: the model's masks are of another size than the image file.
            UnwrittenError: the files can't be written; it has the results.
        """
        images, truth = self._checked_images(), self._ground_truth()
        nms, masks = self._nms_threshold is not None, "segm" in self._kinds
        detections = Detections.join(images, nms, masks)
        mine, classes = self._of_own_classes(detections, len(truth.category_ids))
        scores = {
            kind: score_classes(truth, mine, classes, kind, self._max_detections)
            for kind in self._kinds
        }
        # Detections of all go to the main process for the file alone.
        written = images if self._output_dir is not None else []
        found = (len(detections.scores), scores, written)
        gathered = comm.gather(found) if self._distributed else [found]
        if self._distributed and not comm.is_main_process():
            return {}
        counts, parts, lists = zip(*gathered, strict=True)
        results: dict[str, dict[str, float]] = {}
        for kind in self._kinds:
            for task, *of_ranks in zip((kind, f"{kind}_nms"), *(p[kind] for p in parts)):  # noqa: B905
                of_all = {k: one for scored in of_ranks for k, one in scored.items()}
                results[task] = in_percent(of_all, truth.class_names, self._max_detections)
        logger.info("%d detections\n%s", sum(counts), format_results(results))
        if self._output_dir is not None:
            everything = [*itertools.chain.from_iterable(lists)]
            write_results(self._output_dir, results, everything, truth.category_ids)
        return results

    def metrics(self) -> list[str]:
        """Names of what `evaluate` will yield, such as ``bbox/AP``; none before data are loaded.

        They are the same in all processes.
        """
        try:
            classes = class_names(self._dataset_name)
        except DataError:
            return []
        tasks = [*self._kinds]
        if self._nms_threshold is not None:
            tasks += [f"{kind}_nms" for kind in self._kinds]
        names = metric_names(classes, self._max_detections)
        return [f"{task}/{name}" for task in tasks for name in names]

    def _checked_images(self) -> list[ImageDetections]:
        """Return this process's detections; raises what is wrong with those of any."""
        _check_finite([*itertools.chain.from_iterable(self._from_all(self._broken))])
        self._check_all(self._images, self._ground_truth())
        return self._images

    def _from_all(self, value: Any) -> list[Any]:
        """Return what each process has; of this one alone if they don't work together."""
        return comm.all_gather(value) if self._distributed else [value]

    def _of_own_classes(self, own: Detections, count: int) -> tuple[Detections, range]:
        """Exchange detections, so that each process has all of its classes, and which these are.

        They come in the order of the processes, and so in the same order for any class.

        Args:
            count: of classes.
        """
        size, rank = (comm.get_world_size(), comm.get_rank()) if self._distributed else (1, 0)
        if size == 1:
            return own, range(count)
        parts: list[Detections] = []
        for owner in range(size):
            found = comm.gather(own.taken(own.classes % size == owner), dst=owner)
            parts = found if owner == rank else parts
        return Detections.concatenated(parts), range(rank, count, size)

    def _check_all(self, images: Sequence[ImageDetections], truth: GroundTruth) -> None:
        """Raise in all processes what is wrong with the detections of any."""
        problem: Exception | None = None
        try:
            self._check(images, truth)
        except ValueError as error:  # ConfigError is one
            problem = error
        for found in self._from_all(problem):
            if found is not None:
                raise problem or found

    def _ground_truth(self) -> GroundTruth:
        if self._truth is None:
            self._truth = read_truth(self._dataset_name, "segm" in self._kinds)
            self._warn_of_limit(self._truth)
        return self._truth

    def _warn_of_limit(self, truth: GroundTruth) -> None:
        """Say so if there are more objects of a class in an image than can be found."""
        if not comm.is_main_process():
            return
        objects, limit = truth.objects_of_a_class(), self._max_detections
        most = int(objects.max(initial=0))
        if most > limit:
            logger.warning(
                "dataset '%s': up to %d objects of a class are in an image, but %d detections are "
                "evaluated, so %d of %d objects can't be found. Set "
                "dataloader.evaluator.max_detections=%d, and model.postprocess.top_k and "
                "model.num_queries to that or more.",
                self._dataset_name,
                most,
                limit,
                (objects - limit).clip(0).sum(),
                objects.sum(),
                most,
            )

    def _check(self, images: Sequence[ImageDetections], truth: GroundTruth) -> None:
        """Raise ConfigError if detections are of another dataset, ValueError if only masks are."""
        count = len(truth.category_ids)
        for image in images:
            number, size = image.image_id, truth.sizes.get(image.image_id)
            if size is None:
                raise ConfigError(
                    f"image {number} isn't in dataset '{self._dataset_name}': "
                    "dataloader.evaluator.dataset_name must name the dataset of dataloader.test"
                )
            unknown = image.classes[(image.classes < 0) | (image.classes >= count)]
            if len(unknown):
                raise ConfigError(
                    f"a detection has class {unknown[0]}, but dataset '{self._dataset_name}' has "
                    f"classes 0 to {count - 1}: set model.num_classes={count}"
                )
            if image.masks and image.size != size:
                raise ValueError(
                    f"the masks of image {number} are {list(image.size)}, the image is "
                    f"{list(size)} ([height, width]): pred_masks must have the size of the image "
                    "file"
                )


def _evaluated(instances: Instances, masks: bool) -> Instances:
    """Return what is evaluated of an image's detections: masks cost time, wanted or not."""
    names = ["pred_boxes", "scores", "pred_classes"]
    if masks:
        if not instances.has("pred_masks"):
            raise ConfigError(
                "the model predicts no masks: evaluate one that has a mask branch, or set "
                "dataloader.masks=false"
            )
        names.append("pred_masks")
    fields = {name: instances.get(name) for name in names}
    return Instances(instances.image_size, **fields)


def _check_finite(broken: Sequence[Any]) -> None:
    """Raise NonFiniteError if there are images with broken detections."""
    if broken:
        raise NonFiniteError(
            f"the model predicts boxes or scores that are NaN or infinite on {len(broken)} images "
            f"(ids {listed(broken, 8)}): its weights are broken. Use an earlier checkpoint; if "
            "training has led here, lower optimizer.lr"
        )
