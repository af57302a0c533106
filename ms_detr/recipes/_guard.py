"""Recipes that can't undo each other in silence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError, listed
from .deformable_detr import deformable_detr

P = ParamSpec("P")
Recipe = Callable[Concatenate[DictConfig, P], DictConfig]

_ABSENT = object()


def recipe(change: Recipe[P]) -> Recipe[P]:
    """Make a function that changes a model's config one that refuses to undo another's change.

    Recipes are called one after the other. Where two of them set the same key, the later one would
    win without a word, and the model would be neither method. So the later one raises instead: an
    order of calls gives the one right model, or none. What differs from `deformable_detr` counts as
    changed, be it by a recipe or by hand.

    Args:
        change: takes a model's config first, changes it in place and returns it.

    Raises:
        UndoneError: from the guarded function, if it would undo a change.
    """

    name = getattr(change, "__name__", "this recipe")

    @functools.wraps(change)
    def guarded(model: DictConfig, /, *args: P.args, **options: P.kwargs) -> DictConfig:
        before = dict(_values(model))
        try:
            changed = change(model, *args, **options)
        except UndoneError as error:  # of a recipe that this one brings with it
            raise UndoneError(name, error.keys) from None
        undone = _undone(before, dict(_values(changed)))
        if undone:
            raise UndoneError(name, undone)
        return changed

    return guarded


class UndoneError(ConfigError):
    """A recipe would undo what was changed before it.

    Attributes:
        keys: what it would change back or otherwise, below ``model``.
    """

    def __init__(self, name: str, keys: Sequence[str]):
        self.keys = keys
        shown = listed((f"model.{key}" for key in keys), 3)
        super().__init__(
            f"{name}() would undo what was changed before it: {shown}. Call {name}() first, "
            "or, where that is refused as well, choose one of the two"
        )


def _undone(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys that differed from the untouched model, and have been changed once more."""
    untouched = _untouched()
    return sorted(
        key
        for key in before.keys() | untouched.keys()
        if (value := before.get(key, _ABSENT)) != untouched.get(key, _ABSENT)
        and not _is_kept(value, after.get(key, _ABSENT))
    )


@functools.cache
def _untouched() -> Mapping[str, Any]:
    return dict(_values(deformable_detr()))


def _values(model: DictConfig) -> Iterator[tuple[str, Any]]:
    """Every key with its value: a link as it is written, a list as one value.

    What wraps a query initialiser leaves the keys of the wrapped one as they are.
    """
    plain: Any = OmegaConf.to_container(model, resolve=False)
    while "initializer" in plain["query_initializer"]:
        plain["query_initializer"] = plain["query_initializer"]["initializer"]
    return _leaves(plain, "")


def _leaves(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_kept(before: Any, after: Any) -> bool:
    """Whether a value is still there: itself, or a list that has only been added to."""
    if isinstance(before, list) and isinstance(after, list):
        rest = iter(after)
        return all(item in rest for item in before)
    return before == after
