"""Assigners decide which queries learn which objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..layers.boxes import generalized_box_iou
from ..structures import Assignment, PredictionSet, Targets
from .masks import masks_of, overlaps


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


def focal_cost(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """What the focal loss would gain if a logit became positive (arXiv:2010.04159)."""
    p = logits.sigmoid()
    q = 1 - p
    return (1 - alpha) * p**gamma * (q + 1e-8).log() - alpha * q**gamma * (p + 1e-8).log()


def object_logits(predictions: PredictionSet, labels: Tensor) -> Tensor:
    """Logits of every object's class at every query, (L, B, G, Q), for labels (B, G)."""
    layers, _, queries, _ = predictions.logits.shape
    index = labels[None, :, None].expand(layers, -1, queries, -1)
    return predictions.logits.gather(3, index).transpose(2, 3).contiguous()


class HungarianAssigner(Assigner):
    """One query an object, at the least total cost (DETR, arXiv:2005.12872, Eq. 1).

    Every layer and image is solved by itself. Where there are fewer queries than objects, the
    objects of the highest cost go without.

    Args:
        class_cost, l1_cost, giou_cost: weights of the focal, L1 and negative GIoU cost.
        class_agnostic: see every object as class 0, the objectness of the encoder's proposals.
    """

    def __init__(
        self,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        class_agnostic: bool = False,
    ):
        self.class_cost = class_cost
        self.l1_cost = l1_cost
        self.giou_cost = giou_cost
        self.class_agnostic = class_agnostic

    def boxes(self, predictions: PredictionSet) -> Tensor:
        """The boxes that are matched, (L, B, Q, 4)."""
        return predictions.boxes

    def labels(self, targets: Targets) -> Tensor:
        """The classes that are matched, (B, G)."""
        return torch.zeros_like(targets.labels) if self.class_agnostic else targets.labels

    def host_costs(self, predictions: PredictionSet, targets: Targets) -> Tensor:
        """Costs (L, B, G, Q)."""
        boxes, objects = self.boxes(predictions), targets.boxes
        cost = self.l1_cost * torch.cdist(objects[None], boxes, p=1)
        iou = generalized_box_iou(boxes[:, :, None], objects[None, :, :, None])
        cost = cost - self.giou_cost * iou
        if self.class_cost:
            logits = object_logits(predictions, self.labels(targets))
            cost = cost + self.class_cost * focal_cost(logits)
        return cost

    def assign(
        self, predictions: PredictionSet, targets: Targets, host_costs: np.ndarray | None
    ) -> Assignment:
        assert host_costs is not None
        shape = host_costs.shape[:3]
        query, valid = np.zeros(shape, np.int64), np.zeros(shape, bool)
        for layer, image in np.ndindex(*shape[:2]):
            rows, columns = linear_sum_assignment(host_costs[layer, image, : targets.counts[image]])
            query[layer, image, rows] = columns
            valid[layer, image, rows] = True
        device = predictions.boxes.device
        return Assignment(
            torch.from_numpy(query)[..., None].to(device, non_blocking=True),
            torch.from_numpy(valid)[..., None].to(device, non_blocking=True),
            self.labels(targets),
        )


class AnchorHungarianAssigner(HungarianAssigner):
    """Hungarian matching on the anchors that boxes were refined from.

    MS-DETR's encoder term uses it with class cost 0, so that only geometry decides.
    """

    def boxes(self, predictions: PredictionSet) -> Tensor:
        if predictions.anchors is None:
            raise ValueError(
                "this source has no anchors; give its term a HungarianAssigner instead"
            )
        return predictions.anchors.expand_as(predictions.boxes)


class MaskHungarianAssigner(HungarianAssigner):
    """Hungarian matching on class, box and mask (Mask DINO, arXiv:2206.02777, section 3).

    Layers without masks are matched on class and box alone.

    Args:
        mask_cost, dice_cost: weights of the cross-entropy and the dice cost.
        num_points: random points at which masks are compared.
        options: as `HungarianAssigner` has them.
    """

    def __init__(
        self,
        mask_cost: float = 5.0,
        dice_cost: float = 5.0,
        num_points: int = 12544,
        **options: Any,
    ):
        super().__init__(**options)
        self.mask_cost = mask_cost
        self.dice_cost = dice_cost
        self.num_points = num_points

    def host_costs(self, predictions: PredictionSet, targets: Targets) -> Tensor:
        cost = super().host_costs(predictions, targets)
        first = len(cost) - masks_of(predictions).num_layers
        for layer, pairs in enumerate(overlaps(predictions, targets, self.num_points)):
            cost[first + layer] += (
                self.mask_cost * pairs.cross_entropy + self.dice_cost * pairs.dice
            )
        return cost
