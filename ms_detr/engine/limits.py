"""How many objects of an image a config can train on, predict and evaluate, against its data."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from ..data import objects_per_image
from ..errors import ConfigError
from ..evaluation import MAX_DETECTIONS

logger = logging.getLogger(__name__)

TOP_K = "model.postprocess.top_k"
QUERIES = "model.num_queries"
EVALUATED = "dataloader.evaluator.max_detections"


def check_limits(cfg: DictConfig) -> None:
    """Raise ConfigError if more detections are to be evaluated than the model hands out.

    COCO's own limit, the default, may lie above the model's.
    """
    top_k, evaluated = (OmegaConf.select(cfg, key) for key in (TOP_K, EVALUATED))
    known = isinstance(top_k, int) and isinstance(evaluated, int)
    if known and max(top_k, MAX_DETECTIONS) < evaluated:
        raise ConfigError(
            f"{EVALUATED} is {evaluated}, but the model hands out the best {top_k} detections of "
            f"an image: set {TOP_K}={evaluated}, or more"
        )


def warn_of_limits(cfg: DictConfig, datasets: Sequence[str]) -> None:
    """Warn where images have more objects than queries, or than detections that are handed out.

    How many detections are evaluated is the evaluator's own concern.

    Args:
        datasets: names of loaded datasets.
    """
    limits = {key: OmegaConf.select(cfg, key) for key in (QUERIES, TOP_K)}
    limits = {key: value for key, value in limits.items() if isinstance(value, int)}
    for name in dict.fromkeys(datasets):
        objects = objects_per_image(name)
        most = int(objects.max(initial=0))
        low = {key: value for key, value in limits.items() if value < most}
        if low:
            least = min(low.values())
            logger.warning(
                "dataset '%s': %d of %d images have more objects than the model can find, up to "
                "%d where %s. Set %s; %d of %d objects are too many.",
                name, (objects > least).sum(), len(objects), most,
                " and ".join(f"{key} is {value}" for key, value in low.items()),
                " ".join(f"{key}={most}" for key in low),
                (objects - least).clip(0).sum(), objects.sum(),
            )  # fmt: skip
