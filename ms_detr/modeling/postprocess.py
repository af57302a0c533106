"""From the last layer's predictions to detections."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..layers.boxes import cxcywh_to_xyxy
from ..structures import PredictionSet


@dataclass(frozen=True)
class Detections:
    """The best (query, class) pairs of every image, best first.

    Attributes:
        boxes: (B, n, 4) as (x1, y1, x2, y2) in fractions of the image, cut to it.
        scores: (B, n) in [0, 1].
        labels: (B, n) int64.
        queries: (B, n) int64, where each came from.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    queries: Tensor


class Postprocess(nn.Module):
    """Keep the ``top_k`` highest scores over all queries and classes; there is no NMS."""

    def __init__(self, top_k: int):
        super().__init__()
        if top_k < 1:
            raise ValueError(f"model.postprocess.top_k must be at least 1, got {top_k}")
        self.top_k = top_k

    def forward(self, predictions: PredictionSet) -> Detections:
        """Detections from the last layer of ``predictions``."""
        logits, boxes = predictions.logits[-1], predictions.boxes[-1]
        num_classes = logits.shape[-1]
        scores, index = logits.sigmoid().flatten(1).topk(min(self.top_k, logits[0].numel()), 1)
        queries = index // num_classes
        boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
        return Detections(cxcywh_to_xyxy(boxes).clamp(0, 1), scores, index % num_classes, queries)
