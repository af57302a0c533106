"""Faster R-CNN (arXiv:1506.01497) as an auxiliary head of Co-DETR (arXiv:2211.12860)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss

from ..errors import ConfigError
from ..layers.boxes import xyxy_to_cxcywh
from ..modeling import Detections
from ..structures import Candidates, Rows, Targets
from ..supervision import in_full_precision
from ..supervision.losses import check_not_negative
from .branch import AuxiliaryHead, Found
from .pixel_boxes import clip, decode, nms_by_group
from .pyramid import Pyramid
from .region_align import RegionAlign
from .rpn import RPN
from .sampling import RandomSampler

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MOST_CANDIDATES = 2000  # of an image


@dataclass(frozen=True)
class Sample:
    """Regions of an image that are trained, those with an object first.

    Attributes:
        regions: (n, 4) as (x1, y1, x2, y2) in pixels.
        objects: (n,) int64, G for background.
    """

    regions: Tensor
    objects: Tensor


class BoxLayers(nn.Sequential):
    """Two linear layers over what a region looks at; Detectron2's start otherwise."""

    def __init__(self, embed_dim: int, cells: int, channels: int):
        super().__init__(
            nn.Flatten(),
            nn.Linear(embed_dim * cells**2, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


class ClassDeltas(nn.Module):
    """Deltas (dx, dy, dw, dh) for every class; rows of the parameters are classes."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, 4, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes, 4))
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C) -> (R, K, 4)."""
        deltas = F.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        return deltas.unflatten(1, self.bias.shape)


class FasterRCNNHead(AuxiliaryHead):
    """A region proposal network, and of a sample of its regions classes and boxes.

    The objects' own boxes are put in front of the proposals. Candidates are the sampled regions, of
    each image as many as the image with fewest has; their features are the means of what
    RoIAlign reads.

    Args:
        embed_dim: channels of the pyramid's maps.
        num_levels: of the pyramid: those of its sources, which are added up.
        weight: multiplies all losses; 12 are Co-DETR's lambda2 of 2 for each of 6 decoder layers.
        class_weight, box_weight: of the regions' cross entropy and GIoU loss.
        rpn_class_weight, rpn_box_weight: of the anchors' cross entropy and L1 loss.
        sampler: which regions are trained.
        anchor_sampler: which anchors are trained.
        score_threshold: pairs of region and class that the head detects by itself score more.
        iou_threshold: of two boxes of a class that overlap by more the better one stays.
        top_k: detections of an image.
        channels: of the two linear layers between region and outputs.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        num_levels: Sequence[int],
        weight: float = 12.0,
        class_weight: float = 1.0,
        box_weight: float = 10.0,
        rpn_class_weight: float = 1.0,
        rpn_box_weight: float = 1.0,
        sampler: RandomSampler | None = None,
        anchor_sampler: RandomSampler | None = None,
        score_threshold: float = 0.0,
        iou_threshold: float = 0.5,
        top_k: int = 100,
        channels: int = 1024,
    ):
        super().__init__(weight)
        check_not_negative(class_weight=class_weight, box_weight=box_weight)
        for key, value in {"top_k": top_k, "channels": channels}.items():
            if value < 1:
                raise ConfigError(f"a head needs a {key} of at least 1, got {value}")
        self.embed_dim = embed_dim
        self.num_classes = num_classes
        self.num_levels = sum(num_levels)
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.top_k = top_k
        self.rpn = RPN(embed_dim, self.num_levels, rpn_class_weight, rpn_box_weight, anchor_sampler)
        self.matcher = Matcher([0.5], [0, 1])
        self.sampler = RandomSampler(512, 0.25) if sampler is None else sampler
        self.align = RegionAlign()
        self.box_layers = BoxLayers(embed_dim, self.align.size, channels)
        self.cls_score = nn.Linear(channels, num_classes + 1)  # the last one is background
        self.bbox_pred = ClassDeltas(channels, num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.embed_dim, "num_classes": self.num_classes}

    def rows(self) -> dict[str, Rows]:
        """See `ms_detr.structures.HasRows`."""
        names = ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias")
        return dict.fromkeys(names, Rows.CLASSES)

    def forward(self, name: str, pyramid: Pyramid, targets: Targets) -> Found:
        """See `AuxiliaryHead.forward`. The regions' losses are means over those of this process."""
        self.check_levels(pyramid, self.num_levels)
        rpn_losses, proposals = self.rpn(pyramid, targets)
        with in_full_precision(targets):
            samples = self._sample(pyramid, targets, proposals)
            read = self.align(pyramid, [sample.regions for sample in samples])
        logits, deltas = self._predict(read, pyramid.sizes.dtype)
        with in_full_precision(targets):
            losses = self._losses(logits, deltas, samples, pyramid, targets)
            candidates = _candidates(samples, read, pyramid)
        losses = {f"{name}_head/{key}": value for key, value in losses.items()}
        losses.update({f"{name}_rpn/{key}": value for key, value in rpn_losses.items()})
        factor = self.weight * targets.share
        return Found({key: factor * value for key, value in losses.items()}, candidates)

    def _sample(
        self, pyramid: Pyramid, targets: Targets, proposals: Sequence[Tensor]
    ) -> list[Sample]:
        samples = []
        objects = pyramid.objects(targets)
        for image, count in enumerate(targets.counts):
            own = objects[image, :count]
            matches, labels = self.matcher(box_iou(own, proposals[image]))
            # An object's own box is that object's, even if another one has the same.
            matches = torch.cat((torch.arange(count, device=matches.device), matches))
            chosen = self.sampler(torch.cat((labels.new_ones(count), labels)))
            positive, negative = (index.to(matches.device) for index in chosen)
            background = torch.full_like(negative, targets.labels.shape[1])
            regions = torch.cat((own, proposals[image]))[torch.cat((positive, negative))]
            samples.append(Sample(regions, torch.cat((matches[positive], background))))
        return samples

    def _predict(self, read: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Logits (R, K + 1) and deltas (R, K, 4)."""
        x = self.box_layers(read.to(self.cls_score.weight.dtype))
        return self.cls_score(x).to(dtype), self.bbox_pred(x).to(dtype)

    def _losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        samples: Sequence[Sample],
        pyramid: Pyramid,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Weighted; boxes are compared as they are predicted, not cut to the image."""
        # One more object is background.
        all_labels = F.pad(targets.labels, (0, 1), value=self.num_classes)
        all_boxes = F.pad(pyramid.objects(targets), (0, 0, 0, 1))
        indexed = list(enumerate(samples))
        labels = torch.cat([all_labels[image, sample.objects] for image, sample in indexed])
        boxes = torch.cat([all_boxes[image, sample.objects] for image, sample in indexed])
        regions = torch.cat([sample.regions for sample in samples])
        positive = (labels < self.num_classes).nonzero()[:, 0]
        found = decode(deltas[positive, labels[positive]], regions[positive], DELTA_WEIGHTS)
        distances = generalized_box_iou_loss(found, boxes[positive])
        number = max(len(regions), 1)
        entropy = F.cross_entropy(logits, labels, reduction="sum")
        return {
            "loss_class": self.class_weight / number * entropy,
            "loss_giou": self.box_weight / number * distances.sum(),
        }

    def detect(self, pyramid: Pyramid) -> list[Detections]:
        """See `AuxiliaryHead.detect`; ``queries`` are the proposals."""
        self.check_levels(pyramid, self.num_levels)
        proposals = self._proposals(pyramid)
        counts = [len(regions) for regions in proposals]
        outputs = self._predict(self.align(pyramid, proposals), pyramid.sizes.dtype)
        logits, deltas = (x.split(counts) for x in outputs)
        found = []
        for image, regions in enumerate(proposals):
            scale = pyramid.scale[image]
            boxes = decode(deltas[image], regions[:, None], DELTA_WEIGHTS)
            boxes = clip(boxes, scale)
            scores = logits[image].softmax(1)[:, :-1]
            query, label = (scores > self.score_threshold).nonzero(as_tuple=True)
            pairs = boxes[query, label], scores[query, label]
            best = nms_by_group(*pairs, label, self.iou_threshold)[: self.top_k]
            found.append(
                Detections(
                    boxes=(pairs[0][best] / scale)[None],
                    scores=pairs[1][best][None],
                    labels=label[best][None],
                    queries=query[best][None],
                )
            )
        return found

    def class_score(self, pyramid: Pyramid, labels: Tensor) -> Tensor:
        """See `AuxiliaryHead.class_score`; the places are the proposals that it would detect in."""
        self.check_levels(pyramid, self.num_levels)
        read = self.align(pyramid, self._proposals(pyramid))
        return self._predict(read, pyramid.sizes.dtype)[0][:, labels].amax(0).sum()

    def _proposals(self, pyramid: Pyramid) -> list[Tensor]:
        """Those of an evaluation."""
        return self.rpn.propose(self.rpn.predict(pyramid), pyramid, per_level=1000)


def _candidates(samples: Sequence[Sample], read: Tensor, pyramid: Pyramid) -> Candidates:
    features = read.mean((2, 3)).split([len(sample.regions) for sample in samples])
    number = min(MOST_CANDIDATES, *(len(sample.regions) for sample in samples))
    boxes = torch.stack([sample.regions[:number] for sample in samples])
    return Candidates(
        boxes=xyxy_to_cxcywh(boxes) / pyramid.scale,
        objects=torch.stack([sample.objects[:number] for sample in samples]),
        features=torch.stack([own[:number] for own in features]),
    )
