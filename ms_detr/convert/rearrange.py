"""What no renaming can do: tensors that published code cuts, joins or repeats otherwise.

A rearrangement works on our names, after the published ones are renamed and before ours are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError
from .rules import Sizes, State


class Rearrangement(Protocol):
    """One way to arrange tensors, and back; both leave alone what isn't theirs."""

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        """From the published arrangement."""

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        """To the published arrangement."""


@dataclass(frozen=True)
class Columns:
    """One tensor there, its columns here by what they mean.

    Attributes:
        whole: its name.
        parts: names of the columns; of fewer columns there are the last ones.
        width: columns of a part.
    """

    whole: str
    parts: tuple[str, ...]
    width: Callable[[State], int]

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        if self.whole in result:
            columns = result.pop(self.whole).split(self.width(state), 1)
            result.update(zip(self.parts[-len(columns) :], columns, strict=True))
        return result

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        if parts := [result.pop(part) for part in self.parts if part in result]:
            result[self.whole] = torch.cat(parts, 1)
        return result


def embed_dim(state: State) -> int:
    """Channels of a model with feature levels, by our names."""
    if "neck.level_embedding" not in state:
        raise CheckpointError("there are learned queries, but no embedding of feature levels")
    return state["neck.level_embedding"].shape[1]


class JoinedProjections:
    """Query, key and value are projected by three layers there, by one here."""

    APART = re.compile(r"(.*)\.q_proj\.(weight|bias)")
    JOINED = re.compile(r"(.*)\.in_proj_(weight|bias)")

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        for name in state:
            if found := self.APART.fullmatch(name):
                stem, end = found.groups()
                parts = self._parts(stem, end)
                if missing := [part for part in parts if part not in state]:
                    raise CheckpointError(f"{missing[0]} is missing beside {name}")
                result[f"{stem}.in_proj_{end}"] = torch.cat([result.pop(part) for part in parts])
        return result

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        for name in state:
            if found := self.JOINED.fullmatch(name):
                parts = self._parts(*found.groups())
                result.update(zip(parts, result.pop(name).chunk(3), strict=True))
        return result

    @staticmethod
    def _parts(stem: str, end: str) -> list[str]:
        return [f"{stem}.{letter}_proj.{end}" for letter in "qkv"]


class RepeatedHead:
    """Heads that are one for all layers may be there once, and are here once a layer."""

    FIRST = re.compile(r"(decoder\.(?:class|box)_heads)\.0\.(.*)")
    FURTHER = re.compile(r"(decoder\.(?:class|box)_heads)\.[1-9]\d*\.(.*)")

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        for name, tensor in state.items():
            if found := self.FIRST.fullmatch(name):
                for layer in range(1, sizes.layers):
                    result.setdefault(f"{found[1]}.{layer}.{found[2]}", tensor)
        return result

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        return dict(state)


class OneHead(RepeatedHead):
    """Heads are one for all layers, and there once."""

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        for name in state:
            if found := self.FURTHER.fullmatch(name):
                first = f"{found[1]}.0.{found[2]}"
                if not torch.equal(result.pop(name), state[first]):
                    raise CheckpointError(
                        f"{name} differs from {first}; published models have one head for all "
                        "layers"
                    )
        return result


@dataclass(frozen=True)
class Reordered:
    """Tensors whose entries are there in another order or shape.

    Attributes:
        names: pattern of our names.
        ours: the tensor by the published one; theirs: the way back.
    """

    names: str
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        return self._changed(state, self.ours)

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        return self._changed(state, self.theirs)

    def _changed(self, state: State, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        result = dict(state)
        for name, tensor in state.items():
            if re.fullmatch(self.names, name):
                try:
                    result[name] = change(tensor)
                except RuntimeError as error:
                    shape = tuple(tensor.shape)
                    raise CheckpointError(
                        f"{name} has a shape of no known model: {shape}"
                    ) from error
        return result


@dataclass(frozen=True)
class SpareRow:
    """The embedding of labels has no row that stands for no class; ours has, and never reads it."""

    name: str

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        return _changed(state, self.name, lambda tensor: F.pad(tensor, (0, 0, 0, 1)))

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        return _changed(state, self.name, lambda tensor: tensor[:-1])


@dataclass(frozen=True)
class Indicator:
    """The channel that tells denoising from other queries is no part of the content there."""

    name: str

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        return _changed(state, self.name, lambda tensor: F.pad(tensor, (0, 1)))

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        return _changed(state, self.name, lambda tensor: tensor[..., :-1])


@dataclass(frozen=True)
class UnknownLabel:
    """What queries start with is there the last row of the embedding of labels, here on its own.

    Nothing else reads that row.
    """

    labels: str
    content: str

    def to_ours(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        if self.labels not in state:
            return dict(state)
        return {**state, self.content: state[self.labels][-1:]}

    def to_theirs(self, state: State, sizes: Sizes) -> dict[str, Tensor]:
        result = dict(state)
        content = result.pop(self.content, None)
        if content is not None and self.labels in result:
            result[self.labels] = torch.cat((result[self.labels][:-1], content))
        return result


def _changed(state: State, name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A state with one tensor changed, where it is there."""
    return {**state, name: change(state[name])} if name in state else dict(state)
