"""How much of a difference between two models is the choice of the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data import GroundTruth
from ..errors import ConfigError
from .detections import Detections
from .matches import match_classes
from .resampling import average_precision, metrics
from .scoring import MAX_DETECTIONS

DRAWS = 1000
CONFIDENCE = 0.95  # of the intervals


@dataclass(frozen=True)
class Difference:
    """What a metric says of two models, in percent; NaN where there is nothing to be found.

    Attributes:
        first, second: on the images as they are.
        low, high: the interval of ``first - second`` over the draws: 95% of them lie in it.
        better: the share of the draws in which the first one is better; ties count half.
        draws: how many have a value of both.
    """

    first: float
    second: float
    low: float
    high: float
    better: float
    draws: int

    @property
    def difference(self) -> float:
        """Of the images as they are."""
        return self.first - self.second

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def turned(self) -> Difference:
        """The second model against the first."""
        low, high = 0.0 - self.high, 0.0 - self.low  # without a negative zero
        return Difference(self.second, self.first, low, high, 1 - self.better, self.draws)


def draw_weights(images: int, draws: int, seed: int) -> np.ndarray:
    """Draw so many images with replacement, again and again; (images, 1 + draws) int64.

    The first choice is all images once. numpy's ``default_rng(seed)`` draws.

    Raises:
        ConfigError: there are fewer than two images.
    """
    if images < 2:
        raise ConfigError(
            f"the dataset has {images} image{'' if images == 1 else 's'}: what a difference owes "
            "to the choice of images takes two or more to tell"
        )
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), draws)
    return np.concatenate([np.ones((1, images), np.int64), drawn]).T.copy()


def bootstrap(
    truth: GroundTruth,
    detections: Mapping[str, Sequence[Detections]],
    kind: str = "bbox",
    max_detections: int = MAX_DETECTIONS,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, Difference]]:
    """Compare the first of several models with each other one, on the same draws of the images.

    The images of the dataset are drawn with replacement, as many as there are, and both models are
    scored on each draw (a paired bootstrap of percentiles). A model that was trained several times
    scores the mean of its trainings. What yet another training would have led to is not in the
    intervals, nor is the choice of the best of many models.

    Args:
        detections: of every training of a model, by the models' names, two or more.
        kind: "bbox" or "segm".
        progress: called after every class of a training.

    Returns:
        By the names of the others, and of the metrics: see `ms_detr.evaluation.resampling.metrics`.

    Raises:
        ConfigError: there are fewer than two images.
    """
    weights = draw_weights(len(truth.sizes), draws, seed)
    measured = {}
    for name, trainings in detections.items():
        values = []
        for found in trainings:
            classes = []
            for matches in match_classes(truth, found, kind, max_detections):
                classes.append(average_precision(matches, weights))
                progress()
            values.append(metrics(np.stack(classes), truth.class_names))
        measured[name] = {key: np.mean([each[key] for each in values], 0) for key in values[0]}
    (_, first), *others = measured.items()
    return {
        name: {metric: compared(first[metric], other[metric]) for metric in first}
        for name, other in others
    }


def compared(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare the values of a metric, (1 + draws,) each, of which the first is of all images."""
    differences = (first - second)[1:]
    differences = differences[~np.isnan(differences)]
    low = high = better = math.nan
    if len(differences):
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(differences, (tail, 1 - tail)).tolist()
        better = float((np.sign(differences) / 2 + 0.5).mean())
    return Difference(float(first[0]), float(second[0]), low, high, better, len(differences))
