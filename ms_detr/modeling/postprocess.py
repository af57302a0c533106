"""From the last layer's predictions to detections."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..layers.boxes import cxcywh_to_xyxy
from ..layers.rows import rows_of
from ..structures import PredictionSet, QueryMasks
from .detections import Detections
from .soft_nms import SoftNMS

# Values of a mask, at the size it is pasted at, that are held at a time: 256 MiB.
MAX_PASTED = 2**26


class Postprocess(nn.Module):
    """Keep the ``top_k`` highest scores over all queries and classes.

    Args:
        top_k: detections of an image, whatever their scores.
        nms: what the detections go through before; None: there is no NMS.
    """

    def __init__(self, top_k: int, nms: SoftNMS | None = None):
        super().__init__()
        if top_k < 1:
            raise ConfigError(f"model.postprocess.top_k must be at least 1, got {top_k}")
        self.top_k = top_k
        self.nms = nms

    def forward(self, predictions: PredictionSet) -> Detections:
        """Detections from the last layer of ``predictions``."""
        found = self.candidates(predictions)
        return found if self.nms is None else self.nms(found, self.top_k)

    def candidates(self, predictions: PredictionSet) -> Detections:
        """What NMS is given, if there is one; else the detections."""
        count = self.top_k if self.nms is None else self.nms.candidates
        probability = predictions.probability(predictions.logits[-1])
        scores, labels, queries = self.choose(probability, count)
        boxes = rows_of(predictions.boxes[-1], queries)
        return Detections(cxcywh_to_xyxy(boxes).clamp(0, 1), scores, labels, queries)

    def choose(self, probability: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and queries (B, n), best first, from probabilities (B, Q, K).

        Args:
            count: how many, or fewer if there are fewer.
        """
        num_classes = probability.shape[-1]
        scores, index = probability.flatten(1).topk(min(count, probability[0].numel()), 1)
        return scores, index % num_classes, index // num_classes


def paste_masks(
    masks: QueryMasks,
    image: int,
    queries: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Tensor:
    """The last layer's masks of some queries as they lie in an image, (n, H, W) bool.

    Where a GPU's memory does not suffice for the pasted masks, they are made on the CPU.

    Args:
        queries: (n,) int64.
        padded_size: (height, width) of the batch.
        image_size: of the image in it.
        output_size: (H, W).
    """
    largest = max(padded_size[0] * padded_size[1], output_size[0] * output_size[1])
    step = max(1, min(64, MAX_PASTED // largest))

    def pasted(device: torch.device) -> Iterator[Tensor]:
        for part in queries.split(step):
            last = torch.full_like(part, masks.num_layers - 1)
            logits = masks.logits(image, last, part).to(device)[:, None]
            whole = F.interpolate(logits, padded_size, mode="bilinear", align_corners=False)
            whole = whole[..., : image_size[0], : image_size[1]]
            if image_size != output_size:
                whole = F.interpolate(whole, output_size, mode="bilinear", align_corners=False)
            yield whole[:, 0] > 0

    def paste(device: torch.device) -> Tensor:
        result = torch.empty((len(queries), *output_size), dtype=torch.bool, device=device)
        for rows, part in zip(result.split(step), pasted(device), strict=True):
            rows.copy_(part)
        return result

    try:
        return paste(queries.device)
    except torch.cuda.OutOfMemoryError:
        return paste(torch.device("cpu"))
