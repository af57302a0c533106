"""What a process computes on: its device, threads and seeds."""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import torch
from detectron2.utils import comm
from omegaconf import DictConfig

from ..errors import ConfigError

logger = logging.getLogger(__name__)

DEVICES = ("cpu", "cuda")


def choose_device(device: str) -> torch.device:
    """Return the device of a config's ``train.device``; ``auto`` takes CUDA where there is any.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = None
    if chosen is None or chosen.type not in DEVICES:
        only = (
            ""
            if chosen is None
            else f"; {' and '.join(DEVICES)} are what ms_detr is made and tested for"
        )
        raise ConfigError(f"train.device must be auto, cpu, cuda or cuda:N, got '{device}'{only}")
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        found = f"{count or 'no'} CUDA device{'s' if count > 1 else ''}"
        raise ConfigError(f"train.device is '{device}', but PyTorch finds {found}")
    return chosen


def prepare(train: DictConfig) -> torch.device:
    """Set threads and seeds, and return the device, as a config's ``train`` node has them.

    All processes build the same model from the same seed.

    Raises:
        ConfigError: there is no such device, or one is named for several processes.
    """
    device = choose_device(train.device)
    if device.type == "cuda" and comm.get_world_size() > 1:
        if device.index is not None:
            raise ConfigError(
                f"train.device={train.device} names one device, but every one of several processes "
                "takes its own: train.device=cuda"
            )
        device = torch.device("cuda", torch.cuda.current_device())
    _set_threads(train.threads, device)
    random.seed(train.seed)
    np.random.seed(train.seed)
    torch.manual_seed(train.seed)
    return device


def _set_threads(threads: int | None, device: torch.device) -> None:
    """Take the config's CPU threads, else OMP_NUM_THREADS, else this process's part of all."""
    variable = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and variable not in (None, str(threads)):
        logger.info("train.threads=%d is used, not OMP_NUM_THREADS=%s", threads, variable)
    if threads is None and variable is None and device.type == "cpu":
        threads = max(1, torch.get_num_threads() // comm.get_local_size())
    if threads is not None:
        torch.set_num_threads(threads)
