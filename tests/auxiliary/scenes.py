"""Random pyramids with objects on them, in float64."""

import math

import numpy as np
import torch

from ms_detr.auxiliary import Pyramid
from ms_detr.structures import Targets


def make_pyramid(rng, sizes, strides, channels=1, dtype=torch.float64):
    """Maps of noise, as large as images of these (width, height) padded to each other are."""
    width, height = np.max(sizes, 0)
    shape = math.ceil(height / strides[0]), math.ceil(width / strides[0])
    maps = []
    for _ in strides:
        values = rng.normal(size=(len(sizes), channels, *shape))
        maps.append(torch.from_numpy(values).to(dtype).requires_grad_())
        shape = math.ceil(shape[0] / 2), math.ceil(shape[1] / 2)
    return Pyramid(tuple(maps), tuple(strides), torch.tensor(sizes, dtype=dtype))


def make_objects(rng, size, count, whole=False):
    """Boxes (n, 4) as (cx, cy, w, h) in pixels: small and large, some reach out or lie outside."""
    centers = rng.uniform(-0.1, 1.1, (count, 2)) * size
    extents = np.exp(rng.uniform(math.log(0.5), math.log(1.5 * max(size)), (count, 2)))
    boxes = np.concatenate((centers, extents), 1)
    # Halves of 4 pixels: many centres are equally near, many anchors end where objects do.
    boxes = (boxes / 4).round().clip(-100) * 4 if whole else boxes
    if count > 3:
        boxes[1] = boxes[0]  # the same box twice
    return boxes


def make_targets(rng, sizes, boxes, classes=3, dtype=torch.float64):
    """Of every image's boxes in pixels."""
    return Targets.from_list(
        [
            {
                "labels": torch.from_numpy(rng.integers(0, classes, len(own))),
                "boxes": torch.from_numpy(own / np.tile(size, 2)).to(dtype).view(-1, 4),
            }
            for size, own in zip(sizes, boxes, strict=True)
        ]
    )


def objects_of(pyramid, targets):
    """Labels and boxes in pixels of every image, as lists, as a head sees them."""
    boxes = targets.boxes * pyramid.scale
    return [
        (targets.labels[b, :n].tolist(), boxes[b, :n].tolist())
        for b, n in enumerate(targets.counts)
    ]
