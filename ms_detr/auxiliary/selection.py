"""Detections of a one-stage head: the best of every level, and of those that overlap the best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from torch import Tensor

from ..errors import ConfigError
from ..layers.boxes import cxcywh_to_xyxy
from ..modeling import Detections
from .anchors import Anchors
from .pixel_boxes import clip


class Selection:
    """Class-wise non-maximum suppression; defaults are those that ATSS is usually tested with.

    Anchors outside the image detect nothing: an image's padding in a batch shall not matter.

    Args:
        score_threshold: pairs of anchor and class whose class score is not above it are dropped.
        per_level: how many of the best pairs every level keeps before the suppression.
        iou_threshold: of two boxes of a class that overlap by more the better one stays.
        top_k: detections of an image.
    """

    def __init__(
        self,
        score_threshold: float = 0.0,
        per_level: int = 1000,
        iou_threshold: float = 0.6,
        top_k: int = 100,
    ):
        if min(per_level, top_k) < 1:
            raise ConfigError(
                "a head's detections need per_level and top_k of at least 1, got "
                f"{per_level} and {top_k}"
            )
        self.score_threshold = score_threshold
        self.per_level = per_level
        self.iou_threshold = iou_threshold
        self.top_k = top_k

    def __call__(
        self,
        boxes: Tensor,
        probability: Tensor,
        quality: Tensor | None,
        anchors: Anchors,
        sizes: Tensor,
    ) -> list[Detections]:
        """Detections of every image.

        Args:
            boxes: (B, N, 4) as (cx, cy, w, h) in pixels.
            probability: (B, N, K).
            quality: (B, N), multiplies the scores of what a level keeps, or None.
            sizes: (B, 2), width and height of the images, to which boxes are cut.
        """
        scale = sizes.repeat(1, 2)
        corners = clip(cxcywh_to_xyxy(boxes), scale[:, None])
        probability = probability.where(anchors.inside[..., None], -1.0)
        return [
            self._of_image(
                corners[b],
                probability[b],
                None if quality is None else quality[b],
                anchors.level_sizes,
                scale[b],
            )
            for b in range(len(boxes))
        ]

    def _of_image(
        self,
        boxes: Tensor,
        probability: Tensor,
        quality: Tensor | None,
        level_sizes: Sequence[int],
        scale: Tensor,
    ) -> Detections:
        num_classes = probability.shape[-1]
        pairs, first = [], 0
        for level in probability.split(list(level_sizes)):
            scores, index = level.flatten().topk(min(self.per_level, level.numel()))
            kept = scores > max(self.score_threshold, 0.0)
            pairs.append(index[kept] + first)
            first += level.numel()
        pair = torch.cat(pairs)
        anchor, labels = pair // num_classes, pair % num_classes
        kept = (boxes[anchor, 2:] > boxes[anchor, :2]).all(-1)
        anchor, labels = anchor[kept], labels[kept]
        scores = probability[anchor, labels]
        if quality is not None:
            scores = scores * quality[anchor]
        best = batched_nms(boxes[anchor], scores.float(), labels, self.iou_threshold)[: self.top_k]
        anchor = anchor[best]
        return Detections(
            boxes=(boxes[anchor] / scale)[None],
            scores=scores[best][None],
            labels=labels[best][None],
            queries=anchor[None],
        )
