"""Batches as tensors and plain values, which a file keeps without code, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from ..structures import Step

PLAIN = (bool, int, float, str)
KIND = "__kind__"  # key of a dict that stands for an object


@dataclasses.dataclass(frozen=True)
class Kind:
    """How objects of a type become a dict of values, and how they are made of it."""

    type: type
    values: Callable[[Any], Mapping[str, Any]]
    make: Callable[..., Any]


KINDS = {
    "instances": Kind(
        Instances,
        lambda x: {"size": list(x.image_size), "fields": x.get_fields()},
        lambda size, fields: Instances(tuple(size), **fields),
    ),
    "boxes": Kind(Boxes, lambda x: {"tensor": x.tensor}, Boxes),
    "bit_masks": Kind(BitMasks, lambda x: {"tensor": x.tensor}, BitMasks),
    "polygons": Kind(PolygonMasks, lambda x: {"polygons": x.polygons}, PolygonMasks),
    "step": Kind(Step, dataclasses.asdict, Step),
    "array": Kind(
        np.ndarray,
        lambda x: {"tensor": torch.from_numpy(np.ascontiguousarray(x))},
        lambda tensor: tensor.numpy(),
    ),
}


def to_plain(value: Any) -> Any:
    """Return a value made of containers, tensors on the CPU, numbers and texts alone.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(value, Tensor):
        # A batch out of a loader's process is one piece of memory, of which each would be all.
        return value.detach().cpu().clone()
    if value is None or type(value) in PLAIN:
        return value
    if isinstance(value, np.generic):
        return to_plain(value.item())
    for plain in PLAIN:  # kinds of them, such as paths that are texts
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    for name, kind in KINDS.items():
        if isinstance(value, kind.type):
            return {KIND: name, **to_plain(dict(kind.values(value)))}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: to_plain(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} is no plain value")


def from_plain(value: Any) -> Any:
    """Return what `to_plain` was given; tuples have become lists.

    Raises:
        KeyError, TypeError: it was not made by `to_plain`.
    """
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: from_plain(item) for key, item in value.items()}
    return KINDS[found.pop(KIND)].make(**found) if KIND in found else found


def plain_batch(batch: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a batch of model inputs as plain values, and the keys of what can't be that."""
    samples: list[dict[str, Any]] = []
    left_out: dict[str, None] = {}
    for sample in batch:
        samples.append({})
        for key, value in sample.items():
            try:
                samples[-1][key] = to_plain(value)
            except TypeError:
                left_out[key] = None
    return samples, list(left_out)
