"""Compilation of a model's parts, in place: where it pays, and names of weights stay."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from .memory import layers_of

logger = logging.getLogger(__name__)

COMPILERS = ("g++", "clang++", "c++", "cl")
# Of parts of a model that are left as they are. Others are a small part of a step.
REASONS = {
    "backbone": "its blocks are of more kinds than PyTorch compiles one by one, and "
    "train.activation_checkpointing.backbone repeats them one by one",
    "criterion": "matching happens on the host",
    "postprocess": "it has no part in training",
}
SMALL = "a small part of a step"


def compile_parts(model: nn.Module, recomputed: Mapping[str, bool], **options: Any) -> None:
    """Compile each layer of encoder and decoder, and the backbone, as they are called first.

    Layers of one kind share what is compiled. Sizes are left open, so that images of other sizes
    need no other code.

    Args:
        recomputed: the parts under activation checkpointing, see `ms_detr.engine.memory.recompute`,
            which comes before.
        options: of ``torch.compile``.

    Raises:
        ConfigError: the model has none of these parts.
    """
    chosen = {name: layers_of(model, name) for name in ("encoder", "decoder")}
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module) and not recomputed.get("backbone"):
        chosen["backbone"] = [backbone]
    chosen = {name: modules for name, modules in chosen.items() if modules}
    if not chosen:
        raise ConfigError(
            "train.compile=true, but nothing of the model is compiled: it has no encoder, decoder "
            "or backbone that could be; set it to false"
        )
    for modules in chosen.values():
        for module in modules:
            module.compile(dynamic=True, **options)
    logger.info("train.compile: %s are compiled when they are called first", ", ".join(chosen))
    for name, _ in model.named_children():
        if name not in chosen:
            logger.info("train.compile leaves out %s: %s", name, REASONS.get(name, SMALL))


def check_compiler(device: torch.device) -> None:
    """Raise ConfigError where PyTorch has nothing to compile with."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ConfigError("train.compile=true needs the package triton for this GPU")
        return
    compilers = filter(None, (os.environ.get("CXX"), *COMPILERS))
    if not any(map(shutil.which, compilers)):
        raise ConfigError(
            "train.compile=true needs a C++ compiler on the CPU: install g++, or name one in the "
            "variable CXX"
        )
