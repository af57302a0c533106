"""Classification that learns how well a box fits: VariFocal, quality focal loss, IA-BCE.

``terms.o2o.losses.class`` names the loss; any term can have one. A query that several objects hold
learns the overlap with the object that gives it its class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..layers.boxes import box_iou
from ..structures import Assignment
from ..supervision.losses import Loss, Matches, check_not_negative, class_loss

LEAST_QUALITY = 0.01
# Of two boxes, in fractions of the image's area, in the released quality focal loss.
LEAST_UNION = 1e-6


class VariFocalLoss(Loss):
    """Cross entropy with the pair's IoU as target, weighed by it (arXiv:2008.13367, Eq. 2).

    A pair that does not overlap at all so costs nothing; Eq. 2 would count it as background.

    Args:
        alpha, gamma: background costs ``alpha * p**gamma * -log(1 - p)``.
    """

    probability = staticmethod(torch.sigmoid)

    def __init__(self, weight: float, alpha: float = 0.75, gamma: float = 2.0):
        super().__init__(weight)
        check_not_negative(alpha=alpha, gamma=gamma)
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, matches: Matches) -> Tensor:
        target = of_owner(matches, pair_iou(matches))

        def positive_cost(own: Tensor) -> tuple[Tensor, Tensor]:
            cost, slope = cross_entropy(own, target)
            return target * cost, target * slope

        return class_loss(
            matches.logits, matches.labels, positive_cost, self.alpha, self.gamma, matches.ignored
        )


class QualityFocalLoss(Loss):
    """Cross entropy with the pair's IoU as target, weighed by the distance to it.

    Generalized focal loss, arXiv:2006.04388, Eq. 2, as Co-DINO has it. The gradient goes through
    the class probability alone.

    Args:
        beta: of the weight ``|IoU - p|**beta``; background, whose target is 0, has ``p**beta``.
    """

    probability = staticmethod(torch.sigmoid)

    def __init__(self, weight: float, beta: float = 2.0):
        super().__init__(weight)
        if beta < 1:
            raise ConfigError(f"a quality focal loss's beta is at least 1, got {beta}")
        self.beta = beta

    def __call__(self, matches: Matches) -> Tensor:
        target = of_owner(matches, pair_iou(matches, LEAST_UNION))

        def positive_cost(own: Tensor) -> tuple[Tensor, Tensor]:
            cost, slope = cross_entropy(own, target)  # the slope is p - IoU
            distance = slope.abs()
            factor = distance ** (self.beta - 1)
            p = own.sigmoid()
            bend = self.beta * cost * slope.sign() * p * (1 - p)
            return factor * distance * cost, factor * (distance * slope + bend)

        return class_loss(
            matches.logits, matches.labels, positive_cost, 1.0, self.beta, matches.ignored
        )


class IABCELoss(Loss):
    """Cross entropy with a blend of class probability and IoU as target (arXiv:2304.07527).

    The target falls with the rank of a query among those of its object; see :class:`RankWeight`.

    Args:
        alpha: share of the class probability, an exponent; the IoU has the rest.
        gamma: background costs ``p**gamma * -log(1 - p)``.
        tau: how slowly the target falls; infinite: not at all.
    """

    probability = staticmethod(torch.sigmoid)

    def __init__(self, weight: float, alpha: float = 0.25, gamma: float = 2.0, tau: float = 1.5):
        super().__init__(weight)
        check_not_negative(gamma=gamma)
        self.alpha = alpha
        self.gamma = gamma
        self.rank_weight = RankWeight(alpha, tau)

    def __call__(self, matches: Matches) -> Tensor:
        quality = pair_quality(matches, self.alpha)
        target = of_owner(matches, quality * self.rank_weight.of(quality, matches.assignment))

        return class_loss(
            matches.logits,
            matches.labels,
            lambda own: cross_entropy(own, target),
            1.0,
            self.gamma,
            matches.ignored,
        )


class RankWeight:
    """``exp(-rank / tau)`` of every pair: an object's best query has rank 0 (arXiv:2304.07527).

    Only queries that learn the same copy of an object are rivals: in one-to-one assignment, in
    denoising and between groups every weight is 1. Of equal ones the lower query is the better, as
    published. Box losses take it as their ``pair_weight``.

    Args:
        alpha: of the quality that ranks, as in :class:`IABCELoss`.
        tau: how slowly the weight falls with the rank; infinite: not at all.
    """

    def __init__(self, alpha: float = 0.25, tau: float = 1.5):
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is the class probability's share, from 0 to 1, got {alpha}")
        if tau <= 0:
            raise ConfigError(f"tau must be above 0, got {tau}")
        self.alpha = alpha
        self.tau = tau

    def __call__(self, matches: Matches) -> Tensor:
        """Weights (L, B, G, T)."""
        return self.of(pair_quality(matches, self.alpha), matches.assignment)

    def of(self, quality: Tensor, assignment: Assignment) -> Tensor:
        """Weights of pairs whose quality, 0 at least, is known; both are (L, B, G, T)."""
        slots, copies = quality.shape[-1], assignment.copies
        shape = (copies, slots // copies)
        rivals = quality.masked_fill(~assignment.valid, -1.0).unflatten(-1, shape)
        by_query = assignment.query.unflatten(-1, shape).argsort(dim=-1, stable=True)
        falling = rivals.gather(-1, by_query).argsort(dim=-1, descending=True, stable=True)
        rank = by_query.gather(-1, falling).argsort(dim=-1)
        return torch.exp(-rank.flatten(-2).to(quality.dtype) / self.tau)


def cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross entropy, element by element, and its derivative by the logit."""
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return cost, logits.sigmoid() - target


@torch.no_grad()
def pair_iou(matches: Matches, least_union: float = 0.0) -> Tensor:
    """IoU of every pair, (L, B, G, T); see `box_iou`."""
    return box_iou(matches.boxes, matches.target_boxes, least_union)


@torch.no_grad()
def pair_quality(matches: Matches, alpha: float) -> Tensor:
    """``p**alpha * IoU**(1 - alpha)`` of every pair, p of the object's class, (L, B, G, T)."""
    query, num_classes = matches.assignment.query, matches.logits.shape[-1]
    index = query * num_classes + matches.assignment.labels[None, :, :, None]
    logits = matches.logits.flatten(2).gather(2, index.flatten(2)).view(query.shape)
    quality = logits.sigmoid() ** alpha * pair_iou(matches) ** (1 - alpha)
    return quality.clamp(min=LEAST_QUALITY)


def of_owner(matches: Matches, values: Tensor) -> Tensor:
    """Values of pairs (L, B, G, T) by query, (L, B, Q): its owner's; 0 where it has none."""
    query, owners = matches.assignment.query, matches.owners
    objects = torch.arange(query.shape[2], device=query.device)[:, None]
    owned = matches.valid & (owners.gather(2, query.flatten(2)).view(query.shape) == objects)
    return values.new_zeros(owners.shape).scatter_add(
        2, query.flatten(2), (values * owned).flatten(2)
    )
