"""A model in several processes: wrapped, with the same buffers in all of them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError
from ..structures import CountedLosses

logger = logging.getLogger(__name__)


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model where there are several processes; Detectron2's wrapper knows no CPU."""
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    keep_gradient_layout(model)
    # Buffers are averaged where they are needed. The old name is deprecated.
    known = inspect.signature(DistributedDataParallel).parameters
    key = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {key: False}
    return DistributedDataParallel(model, device_ids=ids, **options)


def exchanged_bytes(model: nn.Module) -> int:
    """Bytes of gradients that the processes average in a step; 0 where there is but one."""
    if not isinstance(model, DistributedDataParallel):
        return 0
    return model._get_ddp_logging_data()["total_parameter_size_bytes"]


def without_exchange(model: nn.Module) -> AbstractContextManager:
    """A context for forward passes; their backward passes leave gradients to this process alone.

    Unlike one that exchanges them, such a pass may be given up halfway, in any process.
    """
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def exchange_gradients(model: nn.Module, losses: Iterable[Tensor]) -> None:
    """Let the backward pass of these losses, which comes next, exchange all gradients.

    DDP does this at the end of its forward pass, and some of its processes would never come there
    where that fails in one. Their next backward passes would then exchange other things. Here it
    is done when all processes have agreed to go on.
    """
    if isinstance(model, DistributedDataParallel):
        model.reducer.prepare_for_forward()
        model.reducer.prepare_for_backward(list(losses))


def divided_by_all(losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The losses, those that each process divides by a count of its own divided by their mean.

    As `exchange_gradients`, it is for when all processes have agreed to go on. A collective where
    there are such losses.
    """
    if not isinstance(losses, CountedLosses) or not losses.counts or comm.get_world_size() == 1:
        return losses
    counts = torch.stack(list(losses.counts.values()))
    distributed.all_reduce(counts)
    means = counts / comm.get_world_size()
    return losses.counted_as(dict(zip(losses.counts, means.unbind(), strict=True)))


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Give all processes the same buffers, in place, so that the evaluated model is the saved one.

    Numbers that differ become their mean, whole ones the first process's; what is the same
    everywhere, such as all of a frozen BatchNorm, is left as it is. A collective.
    """
    world_size = comm.get_world_size()
    if world_size == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        by_dtype.setdefault(buffer.dtype, []).append(buffer)
    for dtype, buffers in by_dtype.items():
        own = torch.cat([buffer.reshape(-1) for buffer in buffers])
        own = own.to(torch.uint8) if dtype == torch.bool else own
        low, high, common = own.clone(), own.clone(), own.clone()
        distributed.all_reduce(low, op=distributed.ReduceOp.MIN)
        distributed.all_reduce(high, op=distributed.ReduceOp.MAX)
        if dtype.is_floating_point:
            distributed.all_reduce(common.div_(world_size))
        else:
            distributed.broadcast(common, src=0)
        agreed = torch.where(low == high, own, common)
        sizes = [buffer.numel() for buffer in buffers]
        for buffer, part in zip(buffers, agreed.split(sizes), strict=True):
            buffer.copy_(part.view_as(buffer))


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with BatchNorms that take their statistics over all processes' images.

    Raises:
        ConfigError: there are several processes, on the CPU.
    """
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        logger.warning("train.sync_batchnorm changes nothing: the model has no trainable BatchNorm")
    if comm.get_world_size() == 1:
        return model
    if device.type != "cuda":
        raise ConfigError(
            "train.sync_batchnorm=true needs CUDA, PyTorch has no such layer for the CPU; without "
            "it every process normalises by its own images, and the averages are evaluated"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def keep_gradient_layout(model: nn.Module) -> None:
    """Give the gradients of convolutions the strides of their weights, which DDP expects.

    Of images in channels-last order come gradients in that order; a 1x1 kernel's has the very
    memory of its weight under other strides.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() == 4 and parameter.is_contiguous():
            parameter.register_hook(_with_strides(parameter.stride()))


def _with_strides(strides: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.contiguous().as_strided(gradient.shape, strides)
