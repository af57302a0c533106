"""A trained model, ready to be used."""

from __future__ import annotations

from omegaconf import DictConfig

from ..errors import CheckpointError
from ..meta_arch import MSDETR
from .checks import build
from .datasets import order_classes
from .launch import choose_device
from .state import read_facts
from .weights import load_weights, local_file


def load_model(cfg: DictConfig, weights: str) -> MSDETR:
    """Build the config's model, load ``weights``, put it on the config's device, in eval mode.

    The datasets of ``cfg`` are told, in place, to number their classes as the weights do: built
    from it afterwards, for evaluation or pictures, they fit the model by name.

    Raises:
        CheckpointError: if the weights do not fit the model.
        MissingFileError: if there is no such file.
    """
    order_classes(cfg, read_facts(local_file(weights)).get("classes", []))
    model = build(cfg, "model")
    if not load_weights(model, weights):
        raise CheckpointError(
            f"{weights} holds a backbone alone: give the checkpoint of a whole model"
        )
    return model.to(choose_device(cfg.train.device)).eval()
