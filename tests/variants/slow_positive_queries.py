"""Co-DETR's positive queries as plain loops in float64, written from the published description."""

import numpy as np
import torch

from ..layers.reference import below, inverse_sigmoid, layer_norm, linear, sigmoid, sine_embedding

EMPTY = None  # in the place of a candidate


def choose(objects, nothing, cap, floor, zeros):
    """Of every image the candidates that become queries, in order; `EMPTY` stands for none.

    `objects[image]` are those that the candidates learn, `nothing` for background. Draws as they
    are documented: image by image one permutation, if any, by torch's generator.
    """
    positives = [[i for i, g in enumerate(image) if g < nothing] for image in objects]
    size = max(floor, min(cap, max(len(found) for found in positives)))
    chosen = []
    for image, found in zip(objects, positives, strict=True):
        if len(found) > size:
            drawn = torch.randperm(len(found)).tolist()[:size]
            chosen.append([found[i] for i in drawn])
            continue
        queries, missing = list(found), size - len(found)
        if missing and zeros:
            queries += [EMPTY] * missing
        elif missing:
            negatives = [i for i, g in enumerate(image) if g >= nothing]
            drawn = torch.randperm(len(negatives)).tolist()[:missing]
            queries += [negatives[i] for i in drawn]
        chosen.append(queries)
    return chosen


def sines(box, channels):
    """A box moved into the image, cx, cy, w, h one behind the other, (4 * channels)."""
    return sine_embedding([sigmoid(inverse_sigmoid(value, 1e-5)) for value in box], channels)


def encode_box(params, box, channels):
    """What a query is by its box alone; `channels` of one coordinate."""
    encoded = sines(box, channels)
    return layer_norm(linear(encoded, below(params, "box_projection")), below(params, "box_norm"))


def encode_box_and_feature(params, box, feature, channels):
    """Position and content of a query."""
    position, content = np.split(encode_box(params, box, channels), 2)
    projected = linear(feature, below(params, "feature_projection"))
    content = content + layer_norm(projected, below(params, "feature_norm"))
    return position + params["head_embedding"][0], content
