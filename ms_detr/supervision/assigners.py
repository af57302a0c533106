"""Assigners decide which queries learn which objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import ConfigError
from ..layers.boxes import generalized_box_iou
from ..structures import Assignment, PredictionSet, Targets


class Assigner(ABC):
    """Assigns in two steps, so that the costs of all terms cross to the host together.

    Nothing here needs gradients: the criterion calls both steps without.
    """

    def host_costs(self, predictions: PredictionSet, targets: Targets) -> Tensor | None:
        """What :meth:`assign` needs on the host; None if it stays on the device."""
        return None

    @abstractmethod
    def assign(
        self, predictions: PredictionSet, targets: Targets, host_costs: np.ndarray | None
    ) -> Assignment:
        """Assign, with ``host_costs`` as :meth:`host_costs` returned them, finite."""

    def combine(
        self, own: Assignment, predictions: PredictionSet, assignments: Mapping[str, Assignment]
    ) -> Assignment:
        """The final assignment, where it hangs on those of all terms, by their names."""
        return own


# Of every object's class at every query, (L, B, G, Q), for labels (B, G).
ClassCost = Callable[[PredictionSet, Tensor], Tensor]
# Of every object at every query, (L, B, G, Q).
PairCost = Callable[[PredictionSet, Targets], Tensor]


def focal_cost(
    predictions: PredictionSet, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """What the focal loss would gain if a logit became positive (arXiv:2010.04159)."""
    logits = predictions.logits_for("the focal cost", torch.sigmoid)
    p = of_objects(logits, labels).sigmoid()
    q = 1 - p
    return (1 - alpha) * p**gamma * (q + 1e-8).log() - alpha * q**gamma * (p + 1e-8).log()


def of_objects(values: Tensor, labels: Tensor) -> Tensor:
    """Of values (L, B, Q, K) those of every object's class, (L, B, G, Q), for labels (B, G)."""
    layers, _, queries, _ = values.shape
    index = labels[None, :, None].expand(layers, -1, queries, -1)
    return values.gather(3, index).transpose(2, 3).contiguous()


def shun(cost: Tensor, ignored: Tensor) -> Tensor:
    """Costs (L, B, G, Q) by which none that is ignored, (B, Q), is taken where another is left."""
    if not cost.numel():
        return cost
    # More than any choice among the others can save.
    most = cost.shape[3] * (cost.amax((2, 3), True) - cost.amin((2, 3), True) + 1)
    return cost + most * ignored[None, :, None]


class HungarianAssigner(Assigner):
    """One query an object, at the least total cost (DETR, arXiv:2005.12872, Eq. 1).

    Every layer and image is solved by itself. Where there are fewer queries than objects, the
    objects of the highest cost go without. A source's blocks are matched each by itself and the
    losses averaged over them (Group DETR, arXiv:2207.13085, section 3.2).

    Args:
        class_cost, l1_cost, giou_cost: weights of the class, L1 and negative GIoU cost.
        class_agnostic: see every object as class 0, the objectness of the encoder's proposals.
        class_distance: what ``class_cost`` weighs.
        further_cost: is added, weighed by itself, as :class:`.masks.MaskCost`.

    Attributes:
        k: most queries that an object gets in a block of queries.
    """

    k = 1

    def __init__(
        self,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        class_agnostic: bool = False,
        class_distance: ClassCost = focal_cost,
        further_cost: PairCost | None = None,
    ):
        self.class_cost = class_cost
        self.l1_cost = l1_cost
        self.giou_cost = giou_cost
        self.class_agnostic = class_agnostic
        self.class_distance = class_distance
        self.further_cost = further_cost

    def boxes(self, predictions: PredictionSet) -> Tensor:
        """The boxes that are matched, (L, B, Q, 4)."""
        return predictions.boxes

    def labels(self, targets: Targets) -> Tensor:
        """The classes that are matched, (B, G)."""
        return torch.zeros_like(targets.labels) if self.class_agnostic else targets.labels

    def blocks(self, predictions: PredictionSet) -> tuple[int, ...]:
        """Sizes of the blocks of queries that are matched apart, none of them empty."""
        sizes = predictions.boxes.shape[2:3] if predictions.blocks is None else predictions.blocks
        return tuple(size for size in sizes if size)

    def repeats(self, objects: int, queries: int, last: bool) -> int:
        """How many queries each object of an image gets in a block, at most ``k``.

        Args:
            last: whether it is the last layer.
        """
        return self.k

    def host_costs(self, predictions: PredictionSet, targets: Targets) -> Tensor:
        """Costs (L, B, G, Q)."""
        boxes, objects = self.boxes(predictions), targets.boxes
        cost = self.l1_cost * torch.cdist(objects[None], boxes, p=1)
        iou = generalized_box_iou(boxes[:, :, None], objects[None, :, :, None])
        cost = cost - self.giou_cost * iou
        if self.class_cost:
            cost = cost + self.class_cost * self.class_distance(predictions, self.labels(targets))
        if self.further_cost is not None:
            cost = cost + self.further_cost(predictions, targets)
        return cost if predictions.ignored is None else shun(cost, predictions.ignored)

    def assign(
        self, predictions: PredictionSet, targets: Targets, host_costs: np.ndarray | None
    ) -> Assignment:
        assert host_costs is not None
        layers, images, objects, _ = host_costs.shape
        blocks = self.blocks(predictions)
        slots = len(blocks) * self.k
        query = np.zeros((layers, images, objects, slots), np.int64)
        valid = np.zeros(query.shape, bool)
        for layer, image, block in np.ndindex(layers, images, len(blocks)):
            count, start = targets.counts[image], sum(blocks[:block])
            costs = host_costs[layer, image, :count, start : start + blocks[block]]
            repeats = self.repeats(count, blocks[block], last=layer == layers - 1)
            rows, columns = linear_sum_assignment(np.tile(costs, (repeats, 1)))
            repeat, row = np.divmod(rows, max(count, 1))
            query[layer, image, row, block * self.k + repeat] = start + columns
            valid[layer, image, row, block * self.k + repeat] = True
        device = predictions.boxes.device
        return Assignment(
            torch.from_numpy(query).to(device, non_blocking=True),
            torch.from_numpy(valid).to(device, non_blocking=True),
            self.labels(targets),
            copies=max(slots, 1),
        )


class RepeatedHungarianAssigner(HungarianAssigner):
    """``k`` queries an object: Hungarian matching with every object ``k`` times.

    Hybrid DETR (arXiv:2207.13080, section 3.2): the normaliser counts the repeated objects.

    Args:
        options: as `HungarianAssigner` has them.
    """

    def __init__(self, k: int = 6, **options: Any):
        super().__init__(**options)
        if k < 1:
            raise ConfigError(f"k is how often an object is matched, at least 1; got {k}")
        self.k = k


class KnownAssigner(Assigner):
    """What a query group says that its queries learn, in every layer alike: denoising."""

    def assign(
        self, predictions: PredictionSet, targets: Targets, host_costs: np.ndarray | None
    ) -> Assignment:
        known = predictions.assignment
        if known is None:
            raise ConfigError(
                "it isn't known what this source's queries learn; give its term a "
                "HungarianAssigner instead"
            )
        layers = len(predictions.logits)
        return replace(
            known,
            query=known.query.expand(layers, -1, -1, -1),
            valid=known.valid.expand(layers, -1, -1, -1),
        )


class AnchorHungarianAssigner(HungarianAssigner):
    """Hungarian matching on the anchors that boxes were refined from.

    MS-DETR's encoder term uses it with class cost 0, so that only geometry decides.
    """

    def boxes(self, predictions: PredictionSet) -> Tensor:
        if predictions.anchors is None:
            raise ConfigError(
                "this source has no anchors; give its term a HungarianAssigner instead"
            )
        return predictions.anchors.expand_as(predictions.boxes)
