"""Scores of an image's pixels, that are to be high in objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from ..evaluation import evaluating
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..structures import PredictionSet
from .attention import watched
from .maps import chosen_levels, discriminability, mean_of_shares, unpadded
from .matching import one_to_one
from .samples import Sample


class Score(Protocol):
    """Makes a map of an image."""

    @property
    def note(self) -> str:
        """What the score is, and what isn't published of it."""

    def score(self, model: GeneralizedDETR, sample: Sample) -> Tensor | None:
        """The score of every pixel, (H, W) in [0, 1], on the host; None where there is none."""


@dataclass(frozen=True)
class Discriminability:
    """The discriminability score of the encoder's features, see `discriminability`.

    Args:
        levels: from fine (0) to coarse; None for all.
    """

    levels: Sequence[int] | None = None

    @property
    def note(self) -> str:
        """What the score is, and what isn't published of it."""
        return (
            "The score is D of Co-DETR's Eq. 7 on the encoder's output; how levels are resized "
            "isn't published: here bilinearly, padding cut off before."
        )

    def score(self, model: GeneralizedDETR, sample: Sample) -> Tensor:
        """D; raises as `discriminability` does."""
        with evaluating(model):
            _, memory = model.encode(sample.pixels, sample.padding_mask)
            return sample.shown(discriminability(memory, sample.whole, self.levels))


@dataclass(frozen=True)
class Attention:
    """A score of the decoder's cross-attention.

    Args:
        levels: from fine (0) to coarse; None for all.
        top: of how many queries, by score; None for those that are matched with an object.
        all_layers: the mean over layers, not the last layer alone.
    """

    levels: Sequence[int] | None = None
    top: int | None = None
    all_layers: bool = False

    @property
    def note(self) -> str:
        """What the score is, and what isn't published of it."""
        queries = "matched queries" if self.top is None else f"the {self.top} best-scored queries"
        layers = "all layers" if self.all_layers else "the last layer"
        return (
            "The score is the decoder's cross-attention; how it becomes a map isn't published: "
            f"here the mean over heads and {queries} of {layers}, sampling points spread "
            "bilinearly, then each level resized and divided by its largest value."
        )

    def score(self, model: GeneralizedDETR, sample: Sample) -> Tensor | None:
        """The mean of what the queries take of each token, over heads and queries.

        Returns:
            (H, W) in [0, 1], see `mean_of_shares`; None where no query is chosen.

        Raises:
            ConfigError: there is no such level, or the model's attention can't tell.
        """
        with evaluating(model), watched(model) as calls:
            predictions = model.forward_tensors(sample.pixels, sample.padding_mask)[OUTPUT]
            chosen = self._chosen(model, predictions, sample)
            if not len(chosen):
                return None
            used = calls if self.all_layers else calls[-1:]
            weights = sum(call.token_weights(chosen).mean(1) for call in used) / len(used)
        maps = unpadded(calls[-1].context.memory.grid, cast(Tensor, weights))
        return sample.shown(mean_of_shares(chosen_levels(maps, self.levels), sample.whole))

    def _chosen(self, model: GeneralizedDETR, made: PredictionSet, sample: Sample) -> Tensor:
        if self.top is None:
            owners = one_to_one(model, made, sample.targets)
            return torch.nonzero(owners < sample.targets.labels.shape[1])[:, 0]
        scores = made.probability(made.logits[-1, 0]).amax(-1)
        return scores.topk(min(self.top, len(scores))).indices
