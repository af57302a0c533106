"""A trained model, ready to be used."""

from __future__ import annotations

from omegaconf import DictConfig

from ..meta_arch import MSDETR
from .checks import build
from .launch import choose_device
from .weights import load_weights


def load_model(cfg: DictConfig, weights: str) -> MSDETR:
    """Build the config's model, load ``weights``, put it on the config's device, in eval mode.

    Raises:
        ValueError: if the weights do not fit the model.
        FileNotFoundError: if there is no such file.
    """
    model = build(cfg, "model")
    if not load_weights(model, weights):
        raise ValueError(f"{weights} holds a backbone alone: give the checkpoint of a whole model")
    return model.to(choose_device(cfg.train.device)).eval()
