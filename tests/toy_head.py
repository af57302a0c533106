"""An auxiliary head for tests: as simple as one can be that trains, finds candidates, detects."""

from collections.abc import Sequence

import torch
from detectron2.config import LazyCall as L
from torch import nn
from torch.nn import functional as F

from ms_detr.auxiliary import AuxiliaryHead, Found
from ms_detr.layers.boxes import cxcywh_to_xyxy
from ms_detr.modeling import Detections
from ms_detr.structures import Candidates
from ms_detr.supervision import in_full_precision


class ToyHead(AuxiliaryHead):
    """A square of four strides at every cell learns the first object that its centre lies in."""

    def __init__(
        self, embed_dim: int, num_classes: int, num_levels: Sequence[int], weight: float = 12.0
    ):
        super().__init__(weight)
        self.num_levels = sum(num_levels)
        self.classify = nn.Linear(embed_dim, num_classes)

    def built_with(self):
        return {
            "embed_dim": self.classify.in_features,
            "num_classes": self.classify.out_features,
        }

    def cells(self, pyramid):
        """Features (B, N, C) and boxes (B, N, 4) in pixels of all levels."""
        assert len(pyramid.maps) == self.num_levels
        features, boxes = [], []
        for level, stride in zip(pyramid.maps, pyramid.strides, strict=True):
            y, x = (torch.arange(size).to(pyramid.sizes) * stride for size in level.shape[-2:])
            centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
            boxes.append(F.pad(centers, (0, 2), value=4.0 * stride))
            features.append(level.flatten(2).mT)
        features = torch.cat(features, 1)
        return features, torch.cat(boxes).expand(len(features), -1, -1)

    def forward(self, name, pyramid, targets):
        features, boxes = self.cells(pyramid)
        logits = self.classify(features)
        nothing = targets.labels.shape[1]
        with in_full_precision(targets):
            x1, y1, x2, y2 = pyramid.objects(targets)[:, None].unbind(-1)
            x, y = boxes[..., 0, None], boxes[..., 1, None]
            inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2) & targets.valid[:, None]
            order = torch.arange(nothing).expand_as(inside)
            owner = F.pad(order.where(inside, nothing), (0, 1), value=nothing).amin(-1)
            labels = F.pad(targets.labels, (0, 1), value=logits.shape[-1]).gather(1, owner)
            wanted = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, wanted)
        losses = {f"{name}_head/loss_class": self.weight * targets.share * loss}
        return Found(losses, Candidates((boxes / pyramid.scale).detach(), owner, features))

    def detect(self, pyramid):
        features, boxes = self.cells(pyramid)
        probability = self.classify(features).sigmoid()
        corners = cxcywh_to_xyxy(boxes / pyramid.scale).clamp(0, 1)
        scores, labels = probability.max(-1)
        return [
            Detections(
                corners[image : image + 1, :1],
                scores[image : image + 1, :1],
                labels[image : image + 1, :1],
                torch.zeros(1, 1, dtype=torch.int64),
            )
            for image in range(len(features))
        ]


def toy():
    """The config of a head."""
    return L(ToyHead)(
        embed_dim="${model.embed_dim}",
        num_classes="${model.num_classes}",
        num_levels=("${model.neck.num_levels}", "${model.auxiliary.adapter.num_levels}"),
        weight=12.0,
    )


def second():
    """The same by another name."""
    return toy()
