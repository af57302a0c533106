"""The weights of the best evaluation of a run, by a metric: ``train.best``."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn

from ..errors import ConfigError, short_message
from ..evaluation import metrics_of
from ..run_folder import AVERAGED
from .checkpoint import Checkpointer, shown

logger = logging.getLogger(__name__)

# Without train.best: the first that was measured. And the names that these have in the file.
USUAL = {"segm/AP": "mask_ap", "bbox/AP": "box_ap"}


class BestWeights:
    """Keeps the weights of the best evaluation so far, in the main process.

    Args:
        metric: by which they are chosen, the more the better, such as "bbox/AP-cell"; of an "ema/"
            metric the averaged weights are kept. None: masks, without masks boxes.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str | None = None):
        self._checkpointer = checkpointer
        self._metric = metric
        self._told: set[str] = set()

    def consider(self, iteration: int, results: Mapping[str, Any]) -> None:
        """Save the weights if no evaluation of this metric has been better.

        Nothing here ends a training: what goes wrong is an error in the log.
        """
        scalars = {name: float(value) for name, value in flatten_results_dict(results).items()}
        metric = self._measured(scalars)
        if metric is None:
            return
        value, key = scalars[metric], key_of(metric)
        best = self._checkpointer.best_score(key)
        if best is not None and value <= best:
            return
        if best is None:
            self._tell_once(logging.INFO, self._checkpointer.other_best(key))
        try:
            self._checkpointer.save_best(iteration, value, key, self._weights(metric))
        except OSError as error:
            logger.error(
                "%s; the weights of %s %.2f are lost", short_message(error), shown(key), value
            )

    def _measured(self, scalars: Mapping[str, float]) -> str | None:
        """The metric that decides, None where it has no value."""
        if self._metric is None:
            return next(
                (name for name in USUAL if math.isfinite(scalars.get(name, math.nan))), None
            )
        if self._metric not in scalars:
            problem = _unknown(self._metric, scalars)
            self._tell_once(logging.ERROR, f"{problem}; no best weights are kept, training goes on")
            return None
        if not math.isfinite(scalars[self._metric]):
            self._tell_once(
                logging.WARNING,
                f"train.best={self._metric} has no value (no such objects in the test data): no "
                "best weights are kept",
            )
            return None
        return self._metric

    def _weights(self, metric: str) -> nn.Module:
        parts: Mapping[str, Any] = self._checkpointer.parts
        return parts["ema"].module if metric.startswith(AVERAGED) else parts["model"]

    def _tell_once(self, level: int, text: str) -> None:
        if text and text not in self._told:
            self._told.add(text)
            logger.log(level, text)


def key_of(metric: str) -> str:
    """The name of a metric's value in the file of the best weights."""
    return USUAL.get(metric, f"best/{metric}")


def expect_metric(metric: str | None, evaluators: Mapping[str, DatasetEvaluator]) -> None:
    """Make sure that a metric will be measured, as far as that is known before an evaluation.

    Args:
        metric: ``train.best``.
        evaluators: "" evaluates the weights, "ema" their average, if there is one.

    Raises:
        ConfigError: no evaluator measures it; names the nearest ones.
    """
    if metric is None:
        return
    if metric.startswith(AVERAGED) and AVERAGED.rstrip("/") not in evaluators:
        raise ConfigError(
            f"train.best={metric} is about the average of the weights, and there is none: set "
            "train.ema.decay, such as 0.9997"
        )
    names: list[str] = []
    for start, evaluator in evaluators.items():
        known = metrics_of(evaluator)
        if not known:
            return  # somebody's own evaluator: its first results will tell
        names += [f"{start}/{name}".lstrip("/") for name in known]
    if metric not in names:
        raise ConfigError(_unknown(metric, names))


def _unknown(metric: str, names: Iterable[str]) -> str:
    names = list(names)
    nearest = difflib.get_close_matches(metric, names, 3, 0) or names[:3]
    hint = f"; the nearest are {', '.join(nearest)}" if nearest else ""
    return f"train.best: no evaluation yields '{metric}'{hint}"
