"""How many queries change their object from one checkpoint to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..evaluation import evaluating
from ..meta_arch import OUTPUT, GeneralizedDETR
from .matching import one_to_one
from .samples import Sample

NOTE = (
    "IS as in DN-DETR, arXiv:2203.01305: queries that are matched with another object than at the "
    "checkpoint before, or with one before or after and with none at the other, an image. Matches "
    "are those of the term o2o in the last layer, of images as they are evaluated. In models of "
    "two stages a query is a rank among the proposals, which changes with the encoder, too."
)


def matches(model: GeneralizedDETR, sample: Sample) -> Tensor:
    """V of an image: the object that each query is matched with, (Q,) int16, -1 for none.

    Raises:
        ConfigError: the model has no term ``o2o``.
        NonFiniteError: a matching cost is not finite.
    """
    with evaluating(model):
        made = model.forward_tensors(sample.pixels, sample.padding_mask)[OUTPUT]
        owners = one_to_one(model, made, sample.targets)
    none = owners == sample.targets.labels.shape[1]
    return owners.masked_fill(none, -1).to(torch.int16).cpu()


def instability(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """IS: how many of the matches (Q,) of the same images differ, a mean over images."""
    changed = [int((x != y).sum()) for x, y in zip(before, after, strict=True)]
    return sum(changed) / len(changed)
