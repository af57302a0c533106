"""How many images fit into memory at once: found by trial, of which nothing is left."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..data import TrainLoader
from ..errors import OutOfMemoryError
from ..meta_arch import STEP
from .memory import kept_buffers
from .out_of_memory import describe, is_out_of_memory, report
from .parts import Batch, step_of
from .precision import Precision

logger = logging.getLogger(__name__)

LOOKED_AT = 8  # batches, in which the largest images are looked for
SHARE = 0.95  # of a GPU's memory; what is left is for images that are larger still
STATES = 2  # of Adam, for each weight


def largest_that_fits(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: TrainLoader, precision: Precision
) -> int:
    """Return how many of a process's images fit at once, the same in all processes.

    A forward and a backward pass are tried on the largest images of the first batches, with all of
    them, then with as many as two parts of a step have, three, and so on. Weights, gradients,
    buffers, optimiser, random state and the order of the data are afterwards as they were. It is a
    collective.

    Args:
        model: bare, also where it is distributed later; in one process, nothing of it waits for
            others.

    Raises:
        OutOfMemoryError: in all processes; one image is too many in some.
    """
    batch = _largest(loader)
    sizes = sorted({-(-len(batch) // parts) for parts in range(1, len(batch) + 1)})
    at_once, trouble = sizes.pop(), ""
    with _room(model, optimizer, precision):
        while at_once and (trouble := _tried(model, batch[:at_once], precision)):
            logger.info("train.batch_size=auto: %d images at once are too many", at_once)
            at_once = sizes.pop() if sizes else 0
    found = min(comm.all_gather(at_once))
    if not found:
        raise OutOfMemoryError(report("a trial before the first step", 0, trouble, ""))
    return found


def _largest(loader: TrainLoader) -> Batch:
    """As many images as a process has in a step: the fullest, then the largest. A collective."""
    images = loader.first_images(LOOKED_AT)
    count = len(images) // LOOKED_AT
    images.sort(key=lambda x: x["image"].numel(), reverse=True)
    if all("instances" in x for x in images):
        fullest = max(range(len(images)), key=lambda index: len(images[index]["instances"]))
        images.insert(0, images.pop(fullest))
        step = step_of(images[:count], done=0.0)
        return [x | {STEP: step} for x in images[:count]]
    return images[:count]


def _tried(model: nn.Module, batch: Batch, precision: Precision) -> str:
    """Try a batch; what there was too little memory for, or nothing."""
    try:
        for parameter in _trained(model):
            parameter.grad = torch.zeros_like(parameter)  # of the parts before this one
        with precision.autocast():
            losses = model(batch)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return describe(error, batch)
    finally:
        for parameter in _trained(model):
            parameter.grad = None
    return ""


@contextmanager
def _room(
    model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision
) -> Iterator[None]:
    """A place to try steps in, as full as that of a real one, from which nothing comes out."""
    on_gpu = precision.device_type == "cuda"
    devices = [torch.cuda.current_device()] if on_gpu else []
    states: Sequence[Tensor] = []
    with EventStorage(), torch.random.fork_rng(devices), kept_buffers(model):
        try:
            if on_gpu:
                torch.cuda.set_per_process_memory_fraction(SHARE)
            if not optimizer.state:
                states = [torch.empty_like(p) for p in _trained(model) for _ in range(STATES)]
            yield
        finally:
            del states
            gc.collect()
            if on_gpu:
                torch.cuda.set_per_process_memory_fraction(1.0)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def _trained(model: nn.Module) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
