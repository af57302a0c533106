"""RetinaNet: anchors are chosen by their IoU with the objects (arXiv:1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..layers.boxes import box_iou
from ..structures import Targets
from .anchors import AnchorGrid, Anchors, Deltas
from .assigned import AnchorAssigner, Assigned
from .dense import DenseHead, DenseLosses
from .pyramid import Pyramid
from .selection import Selection

OCTAVES = tuple(4 * 2 ** (i / 3) for i in range(3))


class OverlapAssigner(AnchorAssigner):
    """Of every anchor the object of the highest IoU, of equal ones the first.

    An anchor has it from ``positive`` on, is background below ``negative`` and is ignored between
    them (arXiv:1708.02002, section 4; arXiv:2211.12860, table 1), as it is outside the image. So an
    object that no anchor fits has none.
    """

    def __init__(self, positive: float = 0.5, negative: float = 0.4):
        if not 0 < negative <= positive:
            raise ConfigError(
                "anchors are assigned by an IoU from positive on and are background below "
                f"negative, which can't be above it, got positive={positive}, negative={negative}"
            )
        self.positive = positive
        self.negative = negative

    def __call__(
        self, pyramid: Pyramid, anchors: Anchors, objects: Tensor, targets: Targets
    ) -> Assigned:
        owner = targets.labels.new_full(anchors.inside.shape, objects.shape[1])
        between = torch.zeros_like(anchors.inside)
        for b, count in enumerate(targets.counts):  # all at once would take much memory
            if count:
                iou, index = box_iou(anchors.boxes, objects[b, :count, None]).max(0)
                positive = (iou >= self.positive) & anchors.inside[b]
                owner[b] = index.where(positive, owner[b])
                between[b] = (iou >= self.negative) & ~positive
        return Assigned(owner, between | ~anchors.inside)


class RetinaNetHead(DenseHead):
    """RetinaNet (arXiv:1708.02002) as an auxiliary head of Co-DETR (arXiv:2211.12860, table 1).

    Nine anchors a place, of 4, 5.04 and 6.35 strides and three aspect ratios. Co-DETR has released
    none: towers, normalisers and the GIoU loss' weight are those of its ATSS head.

    Args:
        embed_dim: channels of the pyramid's maps.
        num_levels: of the pyramid: those of its sources, which are added up.
        weight: multiplies all losses; 12 are Co-DETR's lambda2 of 2 for each of 6 decoder layers.
        class_weight, box_weight: of the focal loss and of the GIoU loss.
        positive, negative: see `OverlapAssigner`.
        num_convs: convolutions of each tower; Co-DETR has 1 in the place of 4.
        selection: what the head detects by itself.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        num_levels: Sequence[int],
        weight: float = 12.0,
        class_weight: float = 1.0,
        box_weight: float = 2.0,
        positive: float = 0.5,
        negative: float = 0.4,
        num_convs: int = 1,
        selection: Selection | None = None,
    ):
        super().__init__(
            embed_dim,
            num_classes,
            num_levels,
            weight,
            grid=AnchorGrid(OCTAVES, aspect_ratios=(0.5, 1.0, 2.0)),
            assigner=OverlapAssigner(positive, negative),
            coder=Deltas(),
            losses=DenseLosses(class_weight, box_weight),
            num_convs=num_convs,
            level_scales=False,
            selection=Selection(iou_threshold=0.5) if selection is None else selection,
        )
