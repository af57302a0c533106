"""Random scenes for tests of assignments and losses, in float64."""

import numpy as np
import torch

from ms_detr.structures import PredictionSet, Targets

from . import reference


def make_images(rng, counts, classes=3):
    """Objects of each image, `{"labels": (n,), "boxes": (n, 4)}`."""
    low, high = (0.2, 0.2, 0.1, 0.1), (0.8, 0.8, 0.5, 0.5)
    return [
        {
            "labels": torch.from_numpy(rng.integers(0, classes, n)),
            "boxes": torch.from_numpy(rng.uniform(low, high, (n, 4))),
        }
        for n in counts
    ]


def make_predictions(rng, images, queries, classes=3, layers=2, spread=0.1, layered=True):
    """Most boxes lie around the objects, the rest and those of empty images anywhere."""
    low, high = (0.1, 0.1, 0.05, 0.05), (0.9, 0.9, 0.6, 0.6)
    boxes = rng.uniform(low, high, (layers, len(images), queries, 4))
    for b, image in enumerate(images):
        objects = image["boxes"].numpy()
        if len(objects):
            chosen = objects[rng.integers(0, len(objects), (layers, queries))]
            near = chosen * np.exp(rng.normal(0, spread, chosen.shape))
            boxes[:, b] = np.where(rng.random((layers, queries, 1)) < 0.7, near, boxes[:, b])
    logits = rng.normal(-1.0, 2.0, (layers, len(images), queries, classes))
    return PredictionSet(
        torch.from_numpy(logits),
        torch.from_numpy(boxes.clip(0.01, 0.99)),
        anchors=torch.from_numpy(rng.uniform(0.05, 0.9, (len(images), queries, 4))),
        layered=layered,
    )


def make_targets(images):
    return Targets.from_list(images)


def pairs(assignment, layer, image):
    """{(query, object)} of one image and layer."""
    query, valid = assignment.query[layer, image], assignment.valid[layer, image]
    found = [
        (query[g, t].item(), g)
        for g in range(query.shape[0])
        for t in range(query.shape[1])
        if valid[g, t]
    ]
    assert len(set(found)) == len(found), "a pair was assigned twice"
    return set(found)


def score_of(predictions, images, layer, b, alpha=0.3):
    """Scores (G, Q) of one image and layer, by the slow reference."""
    image = images[b]
    return reference.quality(
        predictions.logits[layer, b].numpy(),
        predictions.boxes[layer, b].numpy(),
        image["labels"].numpy(),
        image["boxes"].numpy(),
        alpha,
    )
