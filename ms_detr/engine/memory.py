"""Activation checkpointing: what a layer keeps for its gradients, computed again when needed.

It is put on a model that is built, from outside: no part of a model knows of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError

KEY = "train.activation_checkpointing"


class Recomputed(nn.Module):
    """Mixed into a module's class: a call keeps its arguments alone, and is repeated for gradients.

    Random draws are the same again, and buffers such as BatchNorm's statistics don't see the
    second call. Where no gradients are recorded, as in evaluation, nothing is different.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, compiled or not, with its hooks."""
        call = super().__call__
        if not torch.is_grad_enabled():
            return call(*args, **kwargs)
        return checkpoint(
            functools.partial(call, **kwargs),
            *args,
            use_reentrant=False,
            context_fn=functools.partial(_contexts, self),
        )


def recompute(model: nn.Module, wanted: Mapping[str, bool]) -> None:
    """Let a model's parts keep less, in place; names of weights, losses and gradients stay.

    Args:
        wanted: for the names in `PARTS`, whether that part does.

    Raises:
        ConfigError: the model has no such part, or it isn't made of layers.
    """
    for name in PARTS:
        if not wanted.get(name):
            continue
        layers = layers_of(model, name)
        if not layers:
            raise ConfigError(
                f"{KEY}.{name}=true, but the model has no model.{name} that is made of layers: "
                "set it to false"
            )
        for layer in layers:
            # A class of its own keeps names as they are, and survives deepcopy, as
            # torch.nn.utils.parametrize does it.
            layer.__class__ = _recomputed(type(layer))  # type: ignore[arg-type]  # is hashable


def layers_of(model: nn.Module, part: str) -> list[nn.Module]:
    """The layers of a part of `PARTS`; none where the model lacks it."""
    module = getattr(model, part, None)
    return PARTS[part](module) if isinstance(module, nn.Module) else []


def _layers(part: nn.Module) -> list[nn.Module]:
    """The layers of an encoder or a decoder."""
    layers = getattr(part, "layers", ())
    return list(layers) if isinstance(layers, nn.ModuleList) else []


def _blocks(part: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone: what its outermost sequences are made of.

    A sequence of plain layers, such as a stem, is one block.
    """
    inner = list(part.children())
    if not isinstance(part, (nn.Sequential, nn.ModuleList)):
        return [block for child in inner for block in _blocks(child)]
    composed = [child for child in inner if any(child.children())]
    if not composed:
        return [part] if isinstance(part, nn.Sequential) and len(part) > 1 else []
    nested = [_blocks(child) if isinstance(child, nn.Sequential) else [child] for child in composed]
    return [block for blocks in nested for block in blocks]


PARTS: dict[str, Callable[[nn.Module], list[nn.Module]]] = {
    "encoder": _layers,
    "decoder": _layers,
    "backbone": _blocks,
}


@functools.cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Recomputed{kind.__name__}", (Recomputed, kind), {})


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Around the first call and the second one."""
    return nullcontext(), kept_buffers(module)


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Let the block change copies of a module's buffers; afterwards it has its own again."""
    buffers = [
        (owner, name, buffer)
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    for owner, name, buffer in buffers:
        setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, name, buffer in buffers:
            setattr(owner, name, buffer)
