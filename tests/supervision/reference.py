"""Assignments and losses of MS-DETR as plain loops, written from the published description.

Assignments work on numpy arrays of one image and layer; losses on torch scalars in float64, so
that autograd gives reference gradients.
"""

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from ..layers.reference import giou, iou, sigmoid


def matching_cost(logits, boxes, labels, objects, weights=(2.0, 5.0, 2.0)):
    """Costs (G, Q): weights of class, L1 and negative GIoU."""
    out = np.zeros((len(objects), len(boxes)))
    for g in range(len(objects)):
        for q in range(len(boxes)):
            p = sigmoid(logits[q, labels[g]])
            gain = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8)
            gain -= 0.75 * p**2 * -math.log(1 - p + 1e-8)
            l1 = sum(abs(boxes[q, i] - objects[g, i]) for i in range(4))
            overlap = giou(boxes[q], objects[g])
            out[g, q] = weights[0] * gain + weights[1] * l1 - weights[2] * overlap
    return out


def hungarian(cost):
    """Pairs (query, object) of the least total cost."""
    rows, columns = linear_sum_assignment(cost)
    return {(int(q), int(g)) for g, q in zip(rows, columns, strict=True)}


def quality(logits, boxes, labels, objects, alpha=0.3):
    """Match score (G, Q)."""
    out = np.zeros((len(objects), len(boxes)))
    for g in range(len(objects)):
        for q in range(len(boxes)):
            probability = sigmoid(logits[q, labels[g]])
            out[g, q] = alpha * probability + (1 - alpha) * iou(boxes[q], objects[g])
    return out


def first_best(values):
    """Index of the largest value, the first of equal ones."""
    best = 0
    for i in range(1, len(values)):
        if values[i] > values[best]:
            best = i
    return best


def positives(score, threshold=0.4):
    """Positive queries before the quota, and the object that owns each query."""
    objects, queries = score.shape
    owner = [first_best(score[:, q]) for q in range(queries)]
    positive = {q for q in range(queries) if score[owner[q], q] >= threshold}
    for g in range(objects):
        positive.add(first_best(score[g]))
    return positive, owner


def released_top_k(score, k=6, threshold=0.4, quota=0.25):
    """Pairs (query, object) of the published assigner, from scores (G, Q).

    The number of positive queries must be within the quota (or the quota be 0): beyond it the
    published choice is random.
    """
    objects, queries = score.shape
    if objects == 0:
        return set()
    positive, owner = positives(score, threshold)
    limit = math.floor(quota * queries)
    if limit == 0:
        positive = set()
    assert len(positive) <= limit, "too many positive queries for an exact answer"
    pairs = set()
    for g in range(objects):
        count = sum(owner[q] == g for q in positive)
        pairs |= {(q, g) for q in ranked(score[g])[: min(count, k)]}
    return pairs


def ranked(values):
    """Indices by falling value, the lower one first of equal ones."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def class_of_queries(pairs, score, labels, num_queries):
    """Label each query learns, None for background: the best object's, the lower of equal ones."""
    out = [None] * num_queries
    for q in range(num_queries):
        best = None
        for g in sorted(g for (query, g) in pairs if query == q):
            if best is None or score[g, q] > score[best, q]:
                best = g
        if best is not None:
            out[q] = int(labels[best])
    return out


def focal(logit, positive, alpha=0.25, gamma=2.0):
    """Focal loss of one logit, a torch scalar."""
    p = torch.sigmoid(logit)
    if positive:
        return alpha * (1 - p) ** gamma * -torch.log(p)
    return (1 - alpha) * p**gamma * -torch.log(1 - p)


def class_loss(logits, labels, alpha=0.25, gamma=2.0):
    """Sum over queries and classes of one image; labels as from `class_of_queries`."""
    total = torch.zeros((), dtype=logits.dtype)
    for q in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            total = total + focal(logits[q, c], labels[q] == c, alpha, gamma)
    return total


def l1_loss(boxes, objects, pairs):
    total = torch.zeros((), dtype=boxes.dtype)
    for q, g in sorted(pairs):
        for i in range(4):
            total = total + (boxes[q, i] - objects[g, i]).abs()
    return total


def torch_giou(a, b):
    """GIoU of two boxes with area, as torch scalars."""
    ax1, ay1, ax2, ay2 = a[0] - a[2] / 2, a[1] - a[3] / 2, a[0] + a[2] / 2, a[1] + a[3] / 2
    bx1, by1, bx2, by2 = b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    inter = width * height
    union = a[2] * a[3] + b[2] * b[3] - inter
    hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    hull = hull_width * hull_height
    return inter / union - (hull - union) / hull


def giou_loss(boxes, objects, pairs):
    total = torch.zeros((), dtype=boxes.dtype)
    for q, g in sorted(pairs):
        total = total + 1 - torch_giou(boxes[q], objects[g])
    return total


def term_losses(logits, boxes, images, assign, num_objects, weights):
    """{"class", "bbox", "giou"} -> weighted loss of one layer.

    `logits` (B, Q, K) and `boxes` (B, Q, 4) are torch tensors in float64, `images` dicts with
    `labels` (n) and `boxes` (n, 4). `assign(b, logits, boxes, image)` -> pairs, score, labels.
    """
    out = {name: torch.zeros((), dtype=torch.float64) for name in weights}
    for b, image in enumerate(images):
        arrays = logits[b].detach().numpy(), boxes[b].detach().numpy()
        pairs, score, labels = assign(b, *arrays, image)
        classes = class_of_queries(pairs, score, labels, logits.shape[1])
        out["class"] = out["class"] + class_loss(logits[b], classes)
        out["bbox"] = out["bbox"] + l1_loss(boxes[b], image["boxes"], pairs)
        out["giou"] = out["giou"] + giou_loss(boxes[b], image["boxes"], pairs)
    return {name: weights[name] * loss / num_objects for name, loss in out.items()}
