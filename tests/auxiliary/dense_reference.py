"""One-stage heads as plain loops, one anchor at a time, written from the published description."""

import math
import statistics

import torch

from ..layers.reference import corners, iou


def anchors(shapes, strides, sizes, ratios=(1.0,), offset=0.0):
    """(level, column, row, (cx, cy, w, h)) of every anchor, in the order of a head's outputs."""
    return [
        (level, x, y, ((x + offset) * stride, (y + offset) * stride, w, w * ratio))
        for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True))
        for y in range(height)
        for x in range(width)
        for size in sizes
        for ratio in ratios
        for w in [size * stride / math.sqrt(ratio)]
    ]


def is_inside(anchor, strides, size):
    """Whether the anchor's place is inside an unpadded image of this width and height."""
    level, x, y, _ = anchor
    return x < math.ceil(size[0] / strides[level]) and y < math.ceil(size[1] / strides[level])


def depths(point, box):
    """Distances of a point inwards from left, top, right and bottom."""
    x1, y1, x2, y2 = corners(box)
    return point[0] - x1, point[1] - y1, x2 - point[0], y2 - point[1]


def atss(found, inside, objects, top_k=9):
    """The object of every anchor, -1 for none, and how near the closest decision on IoU was."""
    best = [(-math.inf, -1)] * len(found)
    margin = math.inf
    for g, box in enumerate(objects):
        candidates = []
        for level in sorted({anchor[0] for anchor in found}):
            here = [i for i, anchor in enumerate(found) if anchor[0] == level and inside[i]]
            by_distance = sorted(here, key=lambda i: math.dist(found[i][3][:2], box[:2]) ** 2)
            candidates += by_distance[:top_k]
        if len(candidates) < 2:  # no standard deviation: no threshold that an IoU could reach
            continue
        overlaps = [iou(found[i][3], box) for i in candidates]
        threshold = statistics.fmean(overlaps) + statistics.stdev(overlaps)
        for i, overlap in zip(candidates, overlaps, strict=True):
            if min(depths(found[i][3], box)) > 0.01:
                margin = min(margin, abs(overlap - threshold))
                if overlap >= threshold and overlap > best[i][0]:
                    best[i] = overlap, g
    return [owner for _, owner in best], margin


def retinanet(found, inside, objects):
    """The object of every anchor, -1 for none, and which of them are between the thresholds."""
    owners, between = [], []
    for anchor, is_there in zip(found, inside, strict=True):
        best, owner = 0.0, -1
        for g, box in enumerate(objects):
            overlap = iou(anchor[3], box)
            if overlap > best:
                best, owner = overlap, g
        owners.append(owner if is_there and best >= 0.5 else -1)
        between.append(0.4 <= best < 0.5)
    return owners, between


def fcos(found, inside, objects, strides):
    """The object of every place, -1 for none."""
    owners = []
    for (level, _, _, (x, y, _, _)), is_there in zip(found, inside, strict=True):
        stride = strides[level]
        low = 0 if level == 0 else 4 * stride
        high = math.inf if level == len(strides) - 1 else 8 * stride
        smallest, owner = math.inf, -1
        for g, box in enumerate(objects):
            away = depths((x, y), box)
            near = max(abs(x - box[0]), abs(y - box[1])) < 1.5 * stride
            fits = is_there and min(away) > 0 and near and low <= max(away) <= high
            if fits and box[2] * box[3] < smallest:
                smallest, owner = box[2] * box[3], g
        owners.append(owner)
    return owners


def centerness(point, box):
    left, top, right, bottom = depths(point, box)
    return math.sqrt(
        min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
    )  # fmt: skip


def from_deltas(deltas, anchor, weights):
    """The box (cx, cy, w, h) of torch scalars."""
    most = math.log(1000 / 16)
    (dx, dy, dw, dh), (x, y, w, h) = deltas, anchor
    wide, high = ((d / weights[1]).clamp(-most, most).exp() for d in (dw, dh))
    return x + dx / weights[0] * w, y + dy / weights[0] * h, w * wide, h * high


def from_distances(outputs, anchor, stride):
    """The box (cx, cy, w, h) of torch scalars."""
    most = math.log(1000 / 16)
    left, top, right, bottom = (x.clamp(-most, most).exp() * stride for x in outputs)
    x1, y1, x2, y2 = anchor[0] - left, anchor[1] - top, anchor[0] + right, anchor[1] + bottom
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def giou(a, b):
    """Generalised IoU of boxes of torch scalars, areas kept above 1e-6."""
    ax1, ay1, ax2, ay2 = corners(a)
    bx1, by1, bx2, by2 = corners(b)
    width = (min(ax2, bx2) - max(ax1, bx1)) * 1.0
    height = (min(ay2, by2) - max(ay1, by1)) * 1.0
    inter = width * height if width > 0 and height > 0 else 0.0
    union = max((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter, 1e-6)
    hull = max((max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1)), 1e-6)
    return inter / union - (hull - union) / hull


def focal(logits, label):
    """Of one anchor's logits (K,); label K for background."""
    p = logits.sigmoid()
    costs = -0.75 * p**2 * (1 - p).log()
    if label == len(logits):
        return costs.sum()
    own = p[label]
    return costs.sum() - costs[label] - 0.25 * (1 - own) ** 2 * own.log()


def entropy(logit, target):
    p = logit.sigmoid()
    return -(target * p.log() + (1 - target) * (1 - p).log())


def losses(outputs, decode, found, owners, ignored, images, weights):
    """Unweighted by the head: classes, boxes and, if there is a third weight, centerness.

    Args:
        outputs: logits, deltas and centerness of every image and anchor.
        decode: makes a box of deltas and an anchor.
        owners, ignored: lists over images of lists over anchors.
        images: (labels, boxes in pixels) of each.
    """
    logits, deltas, central = outputs
    classes = boxes = centers = torch.zeros((), dtype=torch.float64)
    count, total = 0, 0.0
    for b, (labels, objects) in enumerate(images):
        for i, anchor in enumerate(found):
            owner = owners[b][i]
            if not ignored[b][i]:
                label = len(logits[b, i]) if owner < 0 else labels[owner]
                classes = classes + focal(logits[b, i], label)
            if owner < 0:
                continue
            share = 1.0
            if central is not None:
                share = centerness(anchor[3], objects[owner])
                centers = centers + entropy(central[b, i], share)
            predicted = decode(deltas[b, i], anchor)
            boxes = boxes + share * (1 - giou(predicted, objects[owner]))
            total += share
        count += max(sum(owner >= 0 for owner in owners[b]), 1)
    result = {
        "class": weights[0] * classes / max(count, 1),
        "giou": weights[1] * boxes / (count if central is None else max(total, 1)),
    }
    if central is not None:
        result["centerness"] = weights[2] * centers / max(count, 1)
    return result
