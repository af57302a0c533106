"""DETR (arXiv:2005.12872): queries of a learned position and nothing else, softmax over classes.

Of K classes and "nothing" the logits are kept as K differences to that of nothing, which then is 0:
the rest of the detector knows K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import ClassHead, Postprocess, QueryInitializer
from ..structures import Memory, Predictions, PredictionSet, Queries, at_least_single
from ..supervision.assigners import of_objects
from ..supervision.losses import Loss, Matches, check_not_negative


class PositionInitializer(QueryInitializer):
    """Learned positions; the content starts at zero (section 3.2).

    Boxes are predicted without a reference: the middle of the image is one that adds nothing, its
    logits are zero.
    """

    reference_size = 2

    def __init__(self, num_queries: int, embed_dim: int, extra_queries: Sequence[int] = ()):
        super().__init__(num_queries, embed_dim, extra_queries)
        self.position = nn.Parameter(torch.randn(self.count(supervised=True), embed_dim))

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """The same queries for every image; nothing is predicted."""
        position = self.position[: self.count(supervised)].expand(memory.tokens.shape[0], -1, -1)
        middle = torch.full_like(at_least_single(position[..., :2]), 0.5)
        return Queries(torch.zeros_like(position), position, middle), Predictions({})


def with_nothing(logits: Tensor) -> Tensor:
    """Logits (..., K) of the classes and then of nothing, (..., K + 1)."""
    return F.pad(logits, (0, 1))


def softmax_with_nothing(logits: Tensor) -> Tensor:
    """Probabilities of the classes, (..., K)."""
    return with_nothing(logits).softmax(-1)[..., :-1]


class SoftmaxHead(ClassHead):
    """Logits of the classes, less that of nothing."""

    probability = staticmethod(softmax_with_nothing)

    def __init__(self, embed_dim: int, num_classes: int):
        nn.Linear.__init__(self, embed_dim, num_classes + 1)
        self.num_classes = num_classes

    def reset_parameters(self) -> None:
        nn.Linear.reset_parameters(self)

    def forward(self, states: Tensor) -> Tensor:
        logits = super().forward(states)
        return logits[..., :-1] - logits[..., -1:]


class SoftmaxLoss(Loss):
    """Cross entropy over the classes and nothing, a weighted mean over the queries of a layer.

    Of a step in parts it is the mean of their means, as of several processes.

    Args:
        background: weight of a query without object; one with an object has 1.
    """

    probability = staticmethod(softmax_with_nothing)

    def __init__(self, weight: float, background: float = 0.1):
        super().__init__(weight)
        check_not_negative(background=background)
        self.background = background

    def weights(self, matches: Matches) -> Tensor:
        """Of all queries, (L, B, Q); 0 where one is ignored."""
        weights = torch.full_like(matches.logits[..., 0], self.background)
        weights = weights.masked_fill(matches.labels < matches.logits.shape[-1], 1.0)
        return weights if matches.ignored is None else weights.masked_fill(matches.ignored, 0.0)

    def __call__(self, matches: Matches) -> Tensor:
        logits = with_nothing(matches.logits).movedim(-1, 1)
        cost = F.cross_entropy(logits, matches.labels, reduction="none")
        return (cost * self.weights(matches)).sum((1, 2))

    def divisor(self, matches: Matches, objects: Tensor) -> Tensor:
        return self.weights(matches).sum((1, 2)).clamp(min=1e-6) / matches.share


class ProbabilityCost:
    """A `ClassCost`: minus the probability (section 3.1)."""

    def __call__(self, predictions: PredictionSet, labels: Tensor) -> Tensor:
        return -of_objects(predictions.probability(predictions.logits), labels)


class OneClassPostprocess(Postprocess):
    """Every query is one detection at most, of its likeliest class."""

    def choose(self, probability: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        best, labels = probability.max(-1)
        scores, queries = best.topk(min(count, best.shape[1]), 1)
        return scores, labels.gather(1, queries), queries
