"""A model's query initialiser, within whatever wraps it.

So what changes the initialiser and what wraps it may be called in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..computed_keys import EXTRA_QUERIES


def initializer_of(model: DictConfig) -> DictConfig:
    """The innermost query initialiser, which makes the queries."""
    holder, key = _place(model)
    return holder[key]


def set_initializer(model: DictConfig, kind: Callable[..., Any], **options: Any) -> None:
    """Put another initialiser in its place."""
    holder, key = _place(model)
    holder[key] = L(kind)(
        num_queries="${model.num_queries}",
        embed_dim="${model.embed_dim}",
        extra_queries=EXTRA_QUERIES,
        **options,
    )


def wrap_initializer(model: DictConfig, wrapper: Callable[..., Any]) -> None:
    """Wrap the initialiser itself, within the wrappers that are there."""
    holder, key = _place(model)
    holder[key] = L(wrapper)(initializer=holder[key])


def wrap_all(model: DictConfig, wrapper: Callable[..., Any]) -> None:
    """Wrap the initialiser with all its wrappers."""
    model.query_initializer = L(wrapper)(initializer=model.query_initializer)


def _place(model: DictConfig) -> tuple[DictConfig, str]:
    """The node that holds the innermost initialiser, and under which key."""
    holder, key = model, "query_initializer"
    while "initializer" in holder[key]:
        holder, key = holder[key], "initializer"
    return holder, key
