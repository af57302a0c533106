"""The criterion as DETR's descendants write it: a loop over terms, layers and images.

What `ms-detr benchmark criterion` measures against; written for clarity and the usual speed.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou

from ..layers.boxes import cxcywh_to_xyxy
from ..structures import Predictions, Targets
from ..supervision import (
    AnchorHungarianAssigner,
    HungarianAssigner,
    PaperTopK,
    ReleasedTopK,
    SupervisionTerm,
    Terms,
)

Image = dict[str, Tensor]
Pairs = tuple[Tensor, Tensor]


class PlainCriterion:
    """Losses of a criterion's terms, computed layer by layer."""

    def __init__(self, terms: Terms):
        self.terms = terms

    def __call__(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        images = [
            {"labels": labels[:count], "boxes": boxes[:count]}
            for labels, boxes, count in zip(
                targets.labels, targets.boxes, targets.counts, strict=True
            )
        ]
        num_objects = max(sum(targets.counts), 1)
        losses = {}
        for name, term in self.terms.items():
            made = predictions[term.source]
            for layer in range(len(made.logits)):
                matched = made.boxes[layer] if not _on_anchors(term) else made.anchors
                assert matched is not None
                values = layer_losses(
                    term, made.logits[layer], made.boxes[layer], matched, images, num_objects
                )
                for loss, value in values.items():
                    suffix = f"/{layer}" if made.layered else ""
                    losses[f"{name}/loss_{loss}{suffix}"] = value
        return losses


def _on_anchors(term: SupervisionTerm) -> bool:
    return isinstance(term.assigner, AnchorHungarianAssigner)


def layer_losses(
    term: SupervisionTerm,
    logits: Tensor,
    boxes: Tensor,
    matched_boxes: Tensor,
    images: list[Image],
    num_objects: int,
) -> dict[str, Tensor]:
    """Weighted losses of one layer: logits (B, Q, K), boxes (B, Q, 4)."""
    if getattr(term.assigner, "class_agnostic", False):
        images = [image | {"labels": torch.zeros_like(image["labels"])} for image in images]
    with torch.no_grad():
        if isinstance(term.assigner, HungarianAssigner):
            pairs = hungarian(term.assigner, logits, matched_boxes, images)
        else:
            pairs = [
                one_to_many(term.assigner, *image)  # type: ignore[arg-type]
                for image in zip(logits, matched_boxes, images, strict=True)
            ]
    rows = torch.cat([torch.full_like(q, b) for b, (q, _) in enumerate(pairs)])
    queries = torch.cat([q for q, _ in pairs])
    goal = torch.cat([image["boxes"][g] for image, (_, g) in zip(images, pairs, strict=True)])
    labels = torch.cat([image["labels"][g] for image, (_, g) in zip(images, pairs, strict=True)])
    classes = torch.full(logits.shape[:2], logits.shape[2], device=logits.device)
    classes[rows, queries] = labels
    source = boxes[rows, queries]
    iou = generalized_box_iou(cxcywh_to_xyxy(source), cxcywh_to_xyxy(goal)).diag()
    values = {
        "class": focal(logits, classes),
        "bbox": F.l1_loss(source, goal, reduction="sum"),
        "giou": (1 - iou).sum(),
    }
    weights = {name: term.weight * loss.weight for name, loss in term.losses.items()}
    return {name: weights[name] * value / num_objects for name, value in values.items()}


def focal(logits: Tensor, classes: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss against one-hot targets."""
    onehot = F.one_hot(classes, logits.shape[2] + 1)[..., :-1].to(logits)
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
    p_t = p * onehot + (1 - p) * (1 - onehot)
    alpha_t = alpha * onehot + (1 - alpha) * (1 - onehot)
    return (alpha_t * entropy * (1 - p_t) ** gamma).sum()


def hungarian(
    assigner: HungarianAssigner, logits: Tensor, boxes: Tensor, images: list[Image]
) -> list[Pairs]:
    """The usual matcher: all queries of the batch against all its objects, then cut to images."""
    p = logits.flatten(0, 1).sigmoid()
    flat = boxes.flatten(0, 1)
    labels = torch.cat([image["labels"] for image in images])
    objects = torch.cat([image["boxes"] for image in images])
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    cost = assigner.class_cost * (positive[:, labels] - negative[:, labels])
    cost = cost + assigner.l1_cost * torch.cdist(flat, objects, p=1)
    iou = generalized_box_iou(cxcywh_to_xyxy(flat), cxcywh_to_xyxy(objects))
    cost = (cost - assigner.giou_cost * iou).view(*logits.shape[:2], -1).cpu()
    pairs = []
    parts = cost.split([len(image["labels"]) for image in images], -1)
    for b, part in enumerate(parts):
        queries, found = linear_sum_assignment(part[b])
        pairs.append(tuple(torch.as_tensor(x, device=logits.device) for x in (queries, found)))
    return pairs  # type: ignore[return-value]


def one_to_many(
    assigner: PaperTopK | ReleasedTopK, logits: Tensor, boxes: Tensor, image: Image
) -> Pairs:
    """Pairs of one image, the highest score last, so that it gives the class."""
    iou = box_iou(cxcywh_to_xyxy(image["boxes"]), cxcywh_to_xyxy(boxes))
    score = assigner.alpha * logits.sigmoid()[:, image["labels"]].T + (1 - assigner.alpha) * iou
    best, owner = score.max(0)
    positive = best >= assigner.threshold
    positive[score.argmax(1)] = True
    queries, objects = [], []
    for index in range(len(score)):
        if isinstance(assigner, PaperTopK):
            count = int((score[index] >= assigner.threshold).sum())
        else:
            count = int((positive & (owner == index)).sum())
        chosen = score[index].topk(min(count, assigner.k)).indices
        queries.append(chosen)
        objects.append(torch.full_like(chosen, index))
    q, g = torch.cat(queries), torch.cat(objects)
    order = score[g, q].argsort()
    return q[order], g[order]
