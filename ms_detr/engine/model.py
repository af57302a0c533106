"""A trained model, ready to be used."""

from __future__ import annotations

import logging
import os

from omegaconf import DictConfig, OmegaConf

from ..config import load
from ..errors import listed
from ..meta_arch import GeneralizedDETR, Usage
from .archive import read_facts
from .building import build
from .datasets import order_classes
from .device import choose_device
from .rebuild import read_config
from .weights import load_whole, local_file

logger = logging.getLogger(__name__)


def load_model(
    weights: str | os.PathLike[str], cfg: DictConfig | str | os.PathLike[str] | None = None
) -> GeneralizedDETR:
    """Build a trained model, load its weights and make it ready for `predict`.

    Args:
        weights: a ``.pth`` or ``.safetensors`` file, or a URL.
        cfg: the config that the model was trained with, or its file. Left out, the model is rebuilt
            from what the checkpoint keeps of it, as far as it is made of parts of ms_detr, torch
            and Detectron2, and put on a GPU if there is one. With it, the model goes to
            ``cfg.train.device``, and the datasets of ``cfg`` are told, in place, to number their
            classes as the weights do: built from it afterwards, for evaluation or pictures, they
            fit the model by name.

    Returns:
        The model in evaluation mode. It knows its `class_names`, if the weights do, and how its
        images are prepared.

    Raises:
        CheckpointError: the weights don't fit the model, are a backbone's alone, or keep no config
            that can be used.
        ConfigError: the config can't be built.
        MissingFileError: there is no such file.
    """
    path = local_file(os.fspath(weights))
    classes = read_facts(path).get("classes", [])
    if isinstance(cfg, (str, os.PathLike)):
        cfg = load(os.fspath(cfg))
    if cfg is None:
        cfg = read_config(path)
    elif untold := order_classes(cfg, classes):
        logger.warning(
            "the function of %s has no argument 'classes': make sure that its classes are in the "
            "order of %s, which is %s", " and ".join(untold), path, listed(classes),
        )  # fmt: skip
    model = build(cfg, "model")
    load_whole(model, path)
    if isinstance(model, GeneralizedDETR):
        test = cfg.dataloader.test
        mapper = build(cfg, "dataloader.test.mapper")
        model.set_usage(Usage(mapper, test.batch_size, tuple(classes)))
    device = OmegaConf.select(cfg, "train.device", default="auto")
    return model.to(choose_device(device)).eval()
