"""What one-stage heads share: towers, losses, candidates and detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.boxes import generalized_box_iou
from ..modeling import Detections
from ..structures import Candidates, CountedLosses, Rows, Targets, at_least_single
from ..supervision import in_full_precision
from ..supervision.losses import check_not_negative, focal_loss
from .anchors import AnchorGrid, Anchors, BoxCoder
from .assigned import AnchorAssigner, Assigned, centerness
from .branch import AuxiliaryHead, Found
from .pyramid import Pyramid
from .selection import Selection


@dataclass(frozen=True)
class DenseOutputs:
    """What a head says of every anchor, at least in single precision.

    Attributes:
        logits: (B, N, K).
        deltas: (B, N, 4), what the head's coder makes boxes of.
        centerness: (B, N), logits, or None.
    """

    logits: Tensor
    deltas: Tensor
    centerness: Tensor | None


class DenseLosses:
    """Focal loss, GIoU loss and, if its weight isn't None, binary cross entropy of centerness.

    Co-DETR's normalisers (released code): classes and centerness are divided by the anchors that
    have an object, of which each image counts at least one; boxes by the sum of their centerness,
    by which each counts, at least 1, or without centerness as classes are.
    """

    ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (arXiv:1708.02002)

    def __init__(
        self, class_weight: float, box_weight: float, centerness_weight: float | None = None
    ):
        check_not_negative(
            class_weight=class_weight,
            box_weight=box_weight,
            centerness_weight=centerness_weight or 0.0,
        )
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.centerness_weight = centerness_weight

    def __call__(
        self,
        outputs: DenseOutputs,
        boxes: Tensor,
        anchors: Anchors,
        assigned: Assigned,
        objects: Tensor,
        labels: Tensor,
    ) -> CountedLosses:
        """Losses by name, weighted; each process counts its own.

        Args:
            boxes: predicted, (B, N, 4); they and the objects are (cx, cy, w, h) in pixels.
            objects: (B, G, 4).
            labels: of the objects, (B, G).
        """
        num_classes = outputs.logits.shape[-1]
        owner = assigned.objects
        positive = owner < objects.shape[1]
        # One more row is the object and the class of background.
        labels = F.pad(labels, (0, 1), value=num_classes).gather(1, owner)
        objects = F.pad(objects, (0, 0, 0, 1)).gather(1, owner[..., None].expand(-1, -1, 4))
        share = positive.to(objects.dtype)
        if self.centerness_weight is not None:
            share = centerness(anchors.boxes[:, :2], objects).where(positive, 0.0)
        count = positive.sum(1).clamp(min=1).sum().to(share.dtype)

        found = focal_loss(
            outputs.logits[None], labels[None], self.ALPHA, self.GAMMA, assigned.ignored
        )
        losses = CountedLosses(counts={"class": count})
        losses["class"] = self.class_weight / count * found[0]
        distance = 1 - generalized_box_iou(boxes, objects)
        losses.counts["giou"] = count if self.centerness_weight is None else share.sum()
        divisor = losses.counts["giou"].clamp(min=1)
        losses["giou"] = self.box_weight / divisor * (distance * share).sum()
        if self.centerness_weight is not None and outputs.centerness is not None:
            entropy = F.binary_cross_entropy_with_logits(
                outputs.centerness, share, reduction="none"
            )
            losses["centerness"] = self.centerness_weight / count * (entropy * positive).sum()
            losses.counts["centerness"] = count
        return losses


class ClassConv(nn.Conv2d):
    """Class logits of one anchor a place; every class starts at ``prior`` (arXiv:1708.02002)."""

    def __init__(self, embed_dim: int, num_classes: int, prior: float = 0.01):
        self.prior = prior
        super().__init__(embed_dim, num_classes, kernel_size=3, padding=1)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.in_channels, "num_classes": self.out_channels}

    def rows(self) -> dict[str, Rows]:
        """See `ms_detr.structures.HasRows`."""
        return {"weight": Rows.CLASSES, "bias": Rows.CLASSES}

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.bias), -math.log((1 - self.prior) / self.prior))


class DenseHead(AuxiliaryHead):
    """A one-stage detector: of every anchor of all levels a class and a box.

    Two towers of convolutions, GroupNorm of 32 groups and ReLU; all convolutions start as
    RetinaNet's do (arXiv:1708.02002, section 4.1).

    Args:
        embed_dim: channels of the pyramid's maps.
        num_levels: of the pyramid: those of its sources, which are added up.
        weight: multiplies all losses.
        grid: where the anchors are.
        assigner: decides what they learn.
        coder: makes boxes of the head's outputs.
        losses: with centerness or without, whereby the head predicts it or not.
        num_convs: convolutions of each tower.
        level_scales: whether every level multiplies the box outputs by a number of its own.
        selection: what the head detects by itself; None is `Selection` as it is.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        num_levels: Sequence[int],
        weight: float,
        grid: AnchorGrid,
        assigner: AnchorAssigner,
        coder: BoxCoder,
        losses: DenseLosses,
        num_convs: int = 1,
        level_scales: bool = True,
        selection: Selection | None = None,
    ):
        super().__init__(weight)
        self.embed_dim = embed_dim
        self.num_classes = num_classes
        self.num_levels = sum(num_levels)
        self.grid = grid
        self.assigner = assigner
        self.coder = coder
        self.losses = losses
        self.selection = Selection() if selection is None else selection
        self.class_tower = _tower(embed_dim, num_convs)
        self.box_tower = _tower(embed_dim, num_convs)
        # One of each anchor, so that a row is a class.
        self.class_convs = nn.ModuleList(
            ClassConv(embed_dim, num_classes) for _ in range(grid.per_place)
        )
        self.box_conv = _conv(embed_dim, 4 * grid.per_place)
        self.centerness_conv = (
            None if losses.centerness_weight is None else _conv(embed_dim, grid.per_place)
        )
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(())) for _ in range(self.num_levels if level_scales else 0)
        )

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.embed_dim, "num_classes": self.num_classes}

    def forward(self, name: str, pyramid: Pyramid, targets: Targets) -> Found:
        outputs = self.outputs(pyramid)
        with in_full_precision(targets):
            anchors = self.grid(pyramid)
            objects = targets.boxes * pyramid.scale
            with torch.no_grad():
                assigned = self.assigner(pyramid, anchors, objects, targets)
            boxes = self.coder(outputs.deltas, anchors.boxes)
            losses = self.losses(outputs, boxes, anchors, assigned, objects, targets.labels)
            candidates = Candidates(
                boxes=(anchors.boxes / pyramid.scale).where(anchors.inside[..., None], 0.0),
                objects=assigned.objects,
                features=torch.cat([x.flatten(2).transpose(1, 2) for x in pyramid.maps], 1),
                per_place=self.grid.per_place,
            )
        factor = self.weight * targets.share
        found = CountedLosses()
        for loss, value in losses.items():
            found[f"{name}_head/loss_{loss}"] = factor * value
            found.counts[f"{name}_head/loss_{loss}"] = losses.counts[loss]
        return Found(found, candidates)

    def detect(self, pyramid: Pyramid) -> list[Detections]:
        """See `AuxiliaryHead.detect`; ``queries`` are the anchors."""
        outputs = self.outputs(pyramid)
        anchors = self.grid(pyramid)
        quality = outputs.centerness
        return self.selection(
            self.coder(outputs.deltas, anchors.boxes),
            outputs.logits.sigmoid(),
            None if quality is None else quality.sigmoid(),
            anchors,
            pyramid.sizes,
        )

    def class_score(self, pyramid: Pyramid, labels: Tensor) -> Tensor:
        """See `AuxiliaryHead.class_score`; the places are the anchors."""
        return self.outputs(pyramid).logits[0, :, labels].amax(0).sum()

    def outputs(self, pyramid: Pyramid) -> DenseOutputs:
        """What the head says of every anchor.

        Raises:
            ConfigError: the head was built for another number of levels.
        """
        self.check_levels(pyramid, self.num_levels)
        logits, deltas, central = [], [], []
        for number, level in enumerate(pyramid.maps):
            x = self.class_tower(level)
            logits.append(
                torch.stack([_rows(conv(x), 1)[..., 0, :] for conv in self.class_convs], 2)
            )
            x = self.box_tower(level)
            shift = at_least_single(_rows(self.box_conv(x), self.grid.per_place))
            deltas.append(self.scales[number] * shift if self.scales else shift)
            if self.centerness_conv is not None:
                central.append(_rows(self.centerness_conv(x), self.grid.per_place))
        return DenseOutputs(
            at_least_single(_joined(logits)),
            _joined(deltas),
            at_least_single(_joined(central))[..., 0] if central else None,
        )


def _tower(embed_dim: int, num_convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [
            _conv(embed_dim, embed_dim, bias=False),  # GroupNorm takes it away
            nn.GroupNorm(32, embed_dim),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _conv(embed_dim: int, out_channels: int, bias: bool = True) -> nn.Conv2d:
    conv = nn.Conv2d(embed_dim, out_channels, kernel_size=3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _rows(x: Tensor, per_place: int) -> Tensor:
    """A map (B, A * n, h, w) as (B, h * w, A, n)."""
    return x.unflatten(1, (per_place, -1)).flatten(3).permute(0, 3, 1, 2)


def _joined(levels: list[Tensor]) -> Tensor:
    """Rows (B, P, A, n) of all levels as (B, N, n)."""
    return torch.cat(levels, 1).flatten(1, 2)
