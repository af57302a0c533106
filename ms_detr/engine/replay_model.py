"""The model of a recorded step."""

from __future__ import annotations

from omegaconf import DictConfig
from torch import nn

from ..errors import CheckpointError
from .archive import read_checkpoint
from .building import build
from .rebuild import MODEL, read_config
from .record import Record
from .state import load_strictly


def model_of(record: Record, cfg: DictConfig | None = None) -> nn.Module:
    """Build the model of a step, with the weights that it had then.

    Args:
        cfg: the run's config; None takes what is kept of it, as `ms_detr.load_model` does.

    Raises:
        MissingFileError: the weights don't lie beside the step any more.
        CheckpointError: they don't fit, or keep no config that can be used.
    """
    content = read_checkpoint(record.weights)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(f"{record.weights} holds no weights")
    model = build(read_config(record.weights, MODEL) if cfg is None else cfg, "model")
    load_strictly(model, content["model"], str(record.weights))
    return model
