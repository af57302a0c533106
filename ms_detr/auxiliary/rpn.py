"""Region proposal network (arXiv:1506.01497), as Co-DETR (arXiv:2211.12860) trains it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from ..layers.rows import rows_of
from ..structures import Targets
from ..supervision import in_full_precision
from ..supervision.losses import check_not_negative
from .pixel_boxes import clip, decode, nms_by_group
from .pyramid import Pyramid
from .sampling import RandomSampler, ReassigningMatcher

SIZES = [4 * 2 ** (k / 3) for k in range(3)]  # in cells
RATIOS = [0.5, 1.0, 2.0]  # height by width
ANCHORS = len(SIZES) * len(RATIOS)  # a cell
NMS_THRESHOLD = 0.7


@dataclass(frozen=True)
class Predicted:
    """What the network says of the anchors, a tensor a level; no half precision.

    Attributes:
        anchors: (n, 4), the same for all images.
        logits: (B, n), of there being an object.
        deltas: (B, n, 4).
    """

    anchors: list[Tensor]
    logits: list[Tensor]
    deltas: list[Tensor]


class RPN(nn.Module):
    """Proposes regions that may hold an object.

    Channels are in the order of Detectron2's RPN, in which an anchor's ratio changes first. Anchors
    are listed by ratio and then by size, as the released code lists them: so equal seeds draw equal
    samples.

    Args:
        num_levels: of the pyramid.
        class_weight, box_weight: of the cross entropy and the L1 loss.
        sampler: which anchors are trained.
    """

    def __init__(
        self,
        embed_dim: int,
        num_levels: int,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        sampler: RandomSampler | None = None,
    ):
        super().__init__()
        check_not_negative(rpn_class_weight=class_weight, rpn_box_weight=box_weight)
        self.class_weight = class_weight
        self.box_weight = box_weight
        # Of strides 1: an anchor is as many cells large on every level.
        self.cells = DefaultAnchorGenerator(
            sizes=[SIZES], aspect_ratios=[RATIOS], strides=[1] * num_levels, offset=0.0
        )
        self.head = StandardRPNHead(in_channels=embed_dim, num_anchors=ANCHORS)
        self.matcher = ReassigningMatcher(negative=0.3, positive=0.7, floor=0.3)
        self.sampler = RandomSampler(256, 0.5) if sampler is None else sampler
        self.deltas = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))

    def forward(self, pyramid: Pyramid, targets: Targets) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Losses by name, weighted, and the proposals (n, 4) of every image, best first.

        The losses are divided by the anchors drawn in this process; where an image has no positive
        one, or no negative one, one counts as there.
        """
        predicted = self.predict(pyramid)
        with in_full_precision(targets):
            losses = self._losses(predicted, pyramid, targets)
            return losses, self.propose(predicted, pyramid, per_level=4000)

    def predict(self, pyramid: Pyramid) -> Predicted:
        """What the network says of the anchors of a pyramid."""
        dtype = pyramid.sizes.dtype
        logits, deltas = self.head(pyramid.maps)
        cells = zip(self.cells(pyramid.maps), pyramid.strides, strict=True)
        return Predicted(
            anchors=[_by_ratio(x.tensor.to(dtype) * stride) for x, stride in cells],
            logits=[_listed(x).to(dtype)[..., 0] for x in logits],
            deltas=[_listed(x).to(dtype) for x in deltas],
        )

    @torch.no_grad()
    def propose(
        self, predicted: Predicted, pyramid: Pyramid, per_level: int, most: int = 1000
    ) -> list[Tensor]:
        """Proposals (n, 4) of every image, cut to it, best first; without gradients.

        Anchors in padding propose as well.

        Args:
            per_level: how many of a level NMS sees.
            most: how many an image it leaves.
        """
        scores, boxes, levels = [], [], []
        for number, (anchors, logits, deltas) in enumerate(
            zip(predicted.anchors, predicted.logits, predicted.deltas, strict=True)
        ):
            score, index = logits.sigmoid().sort(dim=1, descending=True, stable=True)
            index = index[:, :per_level]
            delta = rows_of(deltas, index)
            scores.append(score[:, :per_level])
            boxes.append(clip(decode(delta, anchors[index]), pyramid.scale))
            levels.append(torch.full_like(index, number))
        found = []
        for image in range(len(pyramid.sizes)):
            score, box, level = (torch.cat([x[image] for x in y]) for y in (scores, boxes, levels))
            real = (box[:, 2:] > box[:, :2]).all(1)
            box = box[real]
            found.append(box[nms_by_group(box, score[real], level[real], NMS_THRESHOLD)[:most]])
        return found

    def _losses(
        self, predicted: Predicted, pyramid: Pyramid, targets: Targets
    ) -> dict[str, Tensor]:
        anchors = torch.cat(predicted.anchors)
        logits, deltas = torch.cat(predicted.logits, 1), torch.cat(predicted.deltas, 1)
        inside = torch.cat([x.flatten(1) for x in pyramid.inside()], 1)
        inside = inside.repeat_interleave(ANCHORS, 1)
        objects = pyramid.objects(targets)
        class_losses, bbox_losses, counted = [], [], 0
        for image, count in enumerate(targets.counts):
            own = objects[image, :count]
            matches, labels = self.matcher(box_iou(own, anchors) * inside[image])
            chosen = self.sampler(labels.masked_fill(~inside[image], -1))
            positive, negative = (index.to(anchors.device) for index in chosen)
            logit = logits[image, torch.cat((positive, negative))]
            wanted = (torch.arange(len(logit), device=logit.device) < len(positive)).to(logit)
            class_losses.append(F.binary_cross_entropy_with_logits(logit, wanted, reduction="sum"))
            target = self.deltas.get_deltas(anchors[positive], own[matches[positive]])
            bbox_losses.append(F.l1_loss(deltas[image, positive], target, reduction="sum"))
            counted += max(len(positive), 1) + max(len(negative), 1)
        return {
            "loss_class": self.class_weight / counted * torch.stack(class_losses).sum(),
            "loss_bbox": self.box_weight / counted * torch.stack(bbox_losses).sum(),
        }


def _by_ratio(anchors: Tensor) -> Tensor:
    """What anchors (n, x) have, listed by ratio and size instead of size and ratio."""
    return anchors.unflatten(0, (-1, len(SIZES), len(RATIOS))).transpose(1, 2).flatten(0, 2)


def _listed(maps: Tensor) -> Tensor:
    """What a map (B, anchors * x, h, w) says of every anchor, (B, n, x)."""
    maps = maps.unflatten(1, (len(SIZES), len(RATIOS), -1))
    return maps.permute(0, 4, 5, 2, 1, 3).flatten(1, 4)
