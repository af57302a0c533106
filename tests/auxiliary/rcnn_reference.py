"""Slow references in float64 of the region proposal network and of Faster R-CNN's head."""

from __future__ import annotations

import math

import numpy as np

Box = list[float]
BOUND = math.log(1000 / 16)


def anchors(level_shapes: list[tuple[int, int]], strides: list[int]) -> list[Box]:
    """Of all levels, row by row, at a place by ratio and then by size."""
    found = []
    for (height, width), stride in zip(level_shapes, strides, strict=True):
        for y in range(height):
            for x in range(width):
                for ratio in (0.5, 1, 2):
                    for octave in range(3):
                        size = 4 * 2 ** (octave / 3)
                        w, h = math.sqrt(size * size / ratio), math.sqrt(size * size * ratio)
                        corners = (x, -w / 2), (y, -h / 2), (x, w / 2), (y, h / 2)
                        # Detectron2 makes them in single precision.
                        found.append(
                            [float(np.float32(c) + np.float32(d)) * stride for c, d in corners]
                        )
    return found


def is_inside(
    level_shapes: list[tuple[int, int]], strides: list[int], size: tuple[float, float]
) -> list[bool]:
    """Of every anchor, whether its cell begins inside an image of this (width, height)."""
    found = []
    for (height, width), stride in zip(level_shapes, strides, strict=True):
        for y in range(height):
            for x in range(width):
                inside = y < math.ceil(size[1] / stride) and x < math.ceil(size[0] / stride)
                found += [inside] * 9
    return found


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def iou(a: Box, b: Box) -> float:
    return intersection(a, b) / (area(a) + area(b) - intersection(a, b))


def giou_loss(a: Box, b: Box) -> float:
    union = max(area(a) + area(b) - intersection(a, b), 1e-6)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    hull = max(hull, 1e-6)
    return 1 - intersection(a, b) / union + (hull - union) / hull


def encode(box: Box, target: Box) -> list[float]:
    w, h = box[2] - box[0], box[3] - box[1]
    tw, th = target[2] - target[0], target[3] - target[1]
    dx = ((target[0] + target[2]) - (box[0] + box[2])) / 2 / w
    dy = ((target[1] + target[3]) - (box[1] + box[3])) / 2 / h
    return [dx, dy, math.log(tw / w), math.log(th / h)]


def decode(deltas: list[float], box: Box, stds: tuple[float, ...] = (1, 1, 1, 1)) -> Box:
    dx, dy, dw, dh = (d * s for d, s in zip(deltas, stds, strict=True))
    dw, dh = max(min(dw, BOUND), -BOUND), max(min(dh, BOUND), -BOUND)
    w, h = box[2] - box[0], box[3] - box[1]
    x, y = (box[0] + box[2]) / 2 + dx * w, (box[1] + box[3]) / 2 + dy * h
    w, h = w * math.exp(dw), h * math.exp(dh)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def clip(box: Box, size: tuple[float, float]) -> Box:
    return [min(max(c, 0), size[k % 2]) for k, c in enumerate(box)]


def match(
    overlaps: list[list[float]], count: int, negative: float, positive: float, floor: float | None
) -> list[int]:
    """Of ``count`` boxes the object, -1 for background and -2 for neither.

    Args:
        overlaps: of every object with every box.
        floor: of an object's own best boxes, which learn it; None: there is no such rule.
    """
    found = []
    for n in range(count):
        best, owner = 0.0, 0
        for g, row in enumerate(overlaps):
            if row[n] > best:
                best, owner = row[n], g
        found.append(owner if best >= positive and overlaps else -1 if best < negative else -2)
    if floor is not None:
        for g, row in enumerate(overlaps):
            best = max(row)
            if best >= floor:
                found = [g if value == best else old for value, old in zip(row, found, strict=True)]
    return found


def draw(index: list[int], most: int, draws: list[list[int]]) -> list[int]:
    """At most so many, by the next of the draws if there are more, ascending."""
    if len(index) <= most:
        return index
    return sorted(index[k] for k in draws.pop(0)[:most])


def sample(
    found: list[int], number: int, fraction: float, draws: list[list[int]]
) -> tuple[list[int], list[int]]:
    positive = [n for n, owner in enumerate(found) if owner >= 0]
    positive = draw(positive, int(number * fraction), draws)
    negative = [n for n, owner in enumerate(found) if owner == -1]
    return positive, draw(negative, number - len(positive), draws)


def nms(boxes: list[Box], scores: list[float], groups: list[int], threshold: float) -> list[int]:
    """Indices, best first."""
    kept: list[int] = []
    for n in sorted(range(len(boxes)), key=lambda n: -scores[n]):
        if all(groups[k] != groups[n] or iou(boxes[k], boxes[n]) <= threshold for k in kept):
            kept.append(n)
    return kept


def bce(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def level(box: Box, finest: float, count: int) -> int:
    found = math.floor(math.log2(math.sqrt(area(box)) / finest + 1e-6))
    return min(max(found, 0), count - 1)


def roi_align(maps: np.ndarray, box: Box, stride: int, size: int = 7) -> np.ndarray:
    """(C, h, w) -> (C, size, size), as dense as the cells are."""
    x, y = box[0] / stride - 0.5, box[1] / stride - 0.5
    w, h = (box[2] - box[0]) / stride / size, (box[3] - box[1]) / stride / size
    across, down = math.ceil(w), math.ceil(h)
    found = np.zeros((len(maps), size, size))
    for i in range(size):
        for j in range(size):
            for a in range(down):
                for b in range(across):
                    place = x + w * (j + (b + 0.5) / across), y + h * (i + (a + 0.5) / down)
                    found[:, i, j] += bilinear(maps, *place) / (down * across)
    return found


def bilinear(maps: np.ndarray, x: float, y: float) -> np.ndarray:
    """Between the centres of cells; held at the border for one cell, 0 beyond."""
    height, width = maps.shape[1:]
    if not (-1 <= x <= width and -1 <= y <= height):
        return np.zeros(len(maps))
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    u, v = x - left, y - top
    upper = (1 - u) * maps[:, top, left] + u * maps[:, top, right]
    lower = (1 - u) * maps[:, bottom, left] + u * maps[:, bottom, right]
    return (1 - v) * upper + v * lower


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(x) for x in logits]
    return [x / sum(powers) for x in powers]
