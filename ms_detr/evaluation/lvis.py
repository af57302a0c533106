"""LVIS's AP, by the library of its authors: images tell of a part of the classes only."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..data import class_names
from ..errors import DataError, MissingPackageError
from .coco import CocoEvaluator
from .results import write_results
from .table import CLASS_PREFIX, format_results

logger = logging.getLogger(__name__)

MAX_DETECTIONS = 300  # LVIS's, of an image
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300")


class LvisEvaluator(CocoEvaluator):
    """Evaluates boxes, and masks, on a dataset of LVIS's form: its AP in percent.

    A detection of a class of which its image tells nothing isn't counted, and a wrong one isn't
    where the class's objects of the image are not all annotated.

    Args:
        dataset_name, output_dir, distributed, masks: as of `CocoEvaluator`.
        max_detections: of an image, over all classes; LVIS's is 300.

    Raises:
        MissingPackageError: the library lvis isn't installed.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        distributed: bool = True,
        masks: bool = False,
        max_detections: int = MAX_DETECTIONS,
    ):
        _library()
        super().__init__(dataset_name, output_dir, None, distributed, masks, max_detections)

    def evaluate(self) -> Mapping[str, Any]:
        """Score all detections, in the main process.

        Returns:
            By task, ``bbox`` and ``segm``: AP, AP50, AP75; APs, APm, APl by size; APr, APc, APf of
            rare, common and frequent classes; AR@300; AP-<class>. NaN where there is no object.

        Raises:
            NonFiniteError, ConfigError, DataError, UnwrittenError: as of `CocoEvaluator`; and the
                annotation file must have what LVIS's have (DataError).
        """
        images = self._checked_images()
        gathered = comm.gather(images) if self._distributed else [images]
        if self._distributed and not comm.is_main_process():
            return {}
        truth = self._ground_truth()
        everything = [*itertools.chain.from_iterable(gathered)]
        ids = truth.category_ids
        found = [x for image in everything for x in image.in_coco_format(ids)]
        json_file = os.fspath(MetadataCatalog.get(self._dataset_name).json_file)
        name_of = dict(zip(ids, truth.class_names, strict=True))
        results = {
            kind: score_lvis(json_file, found, kind, name_of, self._max_detections)
            for kind in self._kinds
        }
        logger.info("%d detections\n%s", len(found), format_results(results))
        if self._output_dir is not None:
            write_results(self._output_dir, results, everything, ids)
        return results

    def metrics(self) -> list[str]:
        """Names of what `evaluate` will yield, as of `CocoEvaluator`."""
        try:
            classes = class_names(self._dataset_name)
        except DataError:
            return []
        names = [*METRICS, *(CLASS_PREFIX + name for name in classes)]
        return [f"{kind}/{name}" for kind in self._kinds for name in names]


def score_lvis(
    json_file: str,
    found: list[dict[str, Any]],
    kind: str,
    name_of: Mapping[int, str],
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, float]:
    """Return LVIS's metrics in percent.

    Args:
        found: detections in COCO's format.
        kind: what is compared, "bbox" or "segm".
        name_of: names of the classes by category id.

    Raises:
        DataError: the file lacks what LVIS's have.
    """
    lvis = _library()
    if not found:
        values = dict.fromkeys(METRICS, 0.0)
        return values | {CLASS_PREFIX + name: 0.0 for name in name_of.values()}
    try:
        known = lvis.LVIS(json_file)
        own = [{k: v for k, v in x.items() if kind == "segm" or k != "segmentation"} for x in found]
        detected = lvis.LVISResults(known, own, max_detections)
        evaluation = lvis.LVISEval(known, detected, kind)
        evaluation.params.max_dets = max_detections
        with _numpys_float():
            evaluation.run()
    except KeyError as error:
        raise DataError(
            f"{json_file} lacks {error}, which LVIS's files have: evaluate it by CocoEvaluator"
        ) from error
    results = evaluation.get_results()
    named = {name: results[name] for name in METRICS if name in results}
    values = {name: _percent(value) for name, value in named.items()}
    precision = evaluation.eval["precision"]  # IoUs, recalls, classes, sizes
    for place, number in enumerate(evaluation.params.cat_ids):
        one = precision[:, :, place, 0]
        values[CLASS_PREFIX + name_of[number]] = _percent(
            float(one[one > -1].mean()) if (one > -1).any() else -1.0
        )
    return values


def _percent(value: float) -> float:
    return math.nan if value < 0 else 100 * float(value)


def _library() -> Any:
    try:
        import lvis.eval
        import lvis.lvis
        import lvis.results
    except ImportError as error:
        raise MissingPackageError(
            f"LVIS's metric needs {error.name or 'lvis'} (python -m pip install lvis); "
            "ms_detr.evaluation.CocoEvaluator, which takes LVIS for annotated in full, does without"
        ) from error
    return lvis


@contextmanager
def _numpys_float() -> Iterator[None]:
    """Give numpy the name that lvis 0.5.3 calls float by, and that numpy dropped in 1.24."""
    if hasattr(np, "float"):
        yield
        return
    np.float = float  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del np.float  # type: ignore[attr-defined]
