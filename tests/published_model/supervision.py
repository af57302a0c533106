"""Matching and losses, image by image."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from .options import INTERNAL

# Class, L1, GIoU. The one-to-one cost keeps 2 for the class where MS-DETR's loss has 1.
MS_DETR_WEIGHTS = {"o2o": (1, 5, 2), "o2m": (2, 5, 2), "encoder": (2, 5, 2)}
BASELINE_WEIGHTS = {"o2o": (2, 5, 2), "encoder": (2, 5, 2)}
# MS-DETR's one-to-many matcher: threshold, queries of an object, weights of IoU and class, quota.
THRESHOLD, TOP_K, IOU_WEIGHT, CLASS_WEIGHT, QUOTA = 0.4, 6, 0.7, 0.3, 0.25


def overlaps(a, b):
    """IoU and GIoU of all pairs, no epsilon."""
    (a0, a1), (b0, b1) = ((x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2) for x in (a, b))
    a0, a1 = a0[:, None], a1[:, None]
    inner = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(-1)
    union = (a1 - a0).prod(-1) + (b1 - b0).prod(-1) - inner
    hull = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).prod(-1)
    return inner / union, inner / union - (hull - union) / hull


def hungarian(logits, boxes, target, class_cost):
    """Pairs (queries, objects) of one image for the cost (class_cost, 5, 2)."""
    p = logits.sigmoid()[:, target["labels"]]
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    distance = (boxes[:, None] - target["boxes"]).abs().sum(-1)
    cost = (
        5 * distance - 2 * overlaps(boxes, target["boxes"])[1] + class_cost * (positive - negative)
    )
    queries, objects = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(queries), torch.as_tensor(objects)


def one_to_many(logits, boxes, target):
    """MS-DETR's matcher, pairs by ascending score; refuses where the published one draws lots."""
    if len(target["labels"]) == 0:
        return torch.zeros(2, 0, dtype=torch.int64)
    iou = overlaps(target["boxes"], boxes)[0]
    score = IOU_WEIGHT * iou + CLASS_WEIGHT * logits.sigmoid()[:, target["labels"]].T
    best, owner = score.max(0)
    positive = best >= THRESHOLD
    positive[score.argmax(1)] = True  # the best query of every object, whoever owns it
    assert positive.sum() <= int(QUOTA * len(boxes)), "beyond the quota the choice is random"
    pairs = []
    for g, row in enumerate(score):
        number = min(int((positive & (owner == g)).sum()), TOP_K)
        ranked = row.argsort(descending=True)[:number]
        pairs += [(float(row[q]), int(q), g) for q in ranked]
    pairs.sort()
    return torch.tensor([(q, g) for _, q, g in pairs]).view(-1, 2).T


def merge(one_to_one, pairs):
    """Index merge: of a query's pairs the last one counts, one-to-many behind one-to-one."""
    owner = {}
    for queries, objects in (one_to_one, pairs):
        owner |= zip(queries.tolist(), objects.tolist(), strict=True)
    return torch.tensor(sorted(owner.items()), dtype=torch.int64).view(-1, 2).T


def focal_loss(logits, wanted):
    p = logits.sigmoid()
    right = torch.where(wanted, p, 1 - p)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted.to(p), reduction="none")
    return (torch.where(wanted, 0.25, 0.75) * (1 - right) ** 2 * entropy).sum()


def set_losses(logits, boxes, targets, pairs):
    """Class, L1, GIoU over the number of objects, which also divides one-to-many losses.

    Of pairs with one query the last gives the class; boxes learn from all of them.
    """
    objects = max(1, sum(len(target["labels"]) for target in targets))
    classes = torch.full(logits.shape[:2], -1)
    distance, giou = 0, 0
    for image, (target, (queries, owners)) in enumerate(zip(targets, pairs, strict=True)):
        for query, g in zip(queries, owners, strict=True):
            classes[image, query] = target["labels"][g]
        mine, wanted = boxes[image, queries], target["boxes"][owners]
        distance = distance + (mine - wanted).abs().sum()
        giou = giou + (1 - overlaps(mine, wanted)[1].diagonal()).sum()
    wanted = classes[..., None] == torch.arange(logits.shape[-1])
    return focal_loss(logits, wanted) / objects, distance / objects, giou / objects


def match(term, logits, boxes, targets, options, anchors):
    """Pairs of every image, no gradient."""
    logits, boxes = logits.detach(), boxes.detach()
    if term == "o2m":
        return [one_to_many(*image) for image in zip(logits, boxes, targets, strict=True)]
    class_cost = 2
    if term == "encoder" and options.implementation:
        class_cost, boxes = 0, anchors  # as released: geometry alone, invalid anchors included
    return [hungarian(*image, class_cost) for image in zip(logits, boxes, targets, strict=True)]


def losses(made, anchors, targets, options):
    """Weighted losses by this project's names, and the pairs they come from by term and layer."""
    sources = {"o2o": "decoder", "o2m": INTERNAL.get(options.implementation), "encoder": "encoder"}
    result, matched = {}, {}
    for term, weights in (MS_DETR_WEIGHTS if options.implementation else BASELINE_WEIGHTS).items():
        if sources[term] not in made:
            continue  # the encoder's, of a model of one stage
        goals = targets
        if term == "encoder":
            goals = [{**target, "labels": torch.zeros_like(target["labels"])} for target in targets]
        for layer, (logits, boxes) in enumerate(made[sources[term]]):
            pairs = match(term, logits, boxes, goals, options, anchors)
            if term == "o2m" and options.index_merge:
                pairs = [merge(*both) for both in zip(matched[f"o2o/{layer}"], pairs, strict=True)]
            values = set_losses(logits, boxes, goals, pairs)
            end = "" if term == "encoder" else f"/{layer}"
            for name, weight, value in zip(("class", "bbox", "giou"), weights, values, strict=True):
                result[f"{term}/loss_{name}{end}"] = weight * value
            matched[f"{term}{end}"] = pairs
    return result, matched
