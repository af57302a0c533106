"""State dicts: loaded into a model without leftovers, or a message on why they don't fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, listed

# What to do with weights of other classes or queries.
FINE_TUNE = "train.fine_tune=true starts a training from what fits"


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without its metadata.

    Given its metadata, FrozenBatchNorm2d of Detectron2 0.4 shifts the running variance of a plain
    BatchNorm checkpoint by epsilon, in the caller's tensor too.
    """
    return dict(state)


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], source: str, required: str = ""
) -> None:
    """Load a state dict into a model; every tensor must find its place.

    Args:
        source: where the state comes from, for the message.
        required: only the model's names that start so must be in the state.

    Raises:
        CheckpointError: names what is missing, unknown, of another shape or different where the
            model has but one tensor, and the likely reason.
    """
    own = model.state_dict()
    # BatchNorm's step counter is absent from converted weights and changes no result.
    needed = {n for n in own if n.startswith(required) and not n.endswith("num_batches_tracked")}
    missing = [name for name in own if name in needed and name not in state]
    unknown = [name for name in state if name not in own]
    misshapen = [
        f"{name} {_shape(state[name])} instead of {_shape(own[name])}"
        for name in state
        if name in own and state[name].shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {word} ({listed(names, 3)})"
        for names, word in (
            (misshapen, "of wrong shape"),
            (missing, "missing"),
            (unknown, "unknown"),
            (torn_names(own, state), "unlike what the model shares with them"),
        )
        if names
    ]
    if problems:
        hint = _hint(own, state)
        raise CheckpointError(f"{source} doesn't fit the model: {'; '.join(problems)}{hint}")
    model.load_state_dict(plain_state(state), strict=False)


def torn_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of one tensor of a model, as of shared heads, that differ in a state."""
    first: dict[tuple[int, torch.Size], str] = {}
    torn = []
    for name, tensor in own.items():
        if name in state and tensor.data_ptr():
            original = first.setdefault((tensor.data_ptr(), tensor.shape), name)
            if name != original and not torch.equal(state[name], state[original]):
                torn.append(name)
    return torn


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _hint(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say which key of the config most likely differs."""
    wrong = [n for n in state if n in own and state[n].shape != own[n].shape]
    sizes = {(state[name].shape[:1], own[name].shape[:1]) for name in wrong}
    if wrong and all("class" in name for name in wrong) and len(sizes) == 1:
        ((theirs, ours),) = sizes
        return (
            f". It was trained on {theirs[0]} classes, model.num_classes is {ours[0]}; {FINE_TUNE}"
        )
    if wrong and all("quer" in name for name in wrong):
        return (
            f". Set model.num_queries and the groups of model.groups as it was trained; {FINE_TUNE}"
        )
    if wrong and len(wrong) > len(own) / 4:
        return (
            ". It comes from a model of another size (model.embed_dim, feedforward_dim, backbone)"
        )
    if not any(name in own for name in state):
        return ". No name is known: it belongs to another model or implementation"
    return ". Use the config that it was trained with"
