"""The slow decoder with positions that follow the boxes."""

import numpy as np

from ..layers.reference import parameters
from ..layers.test_query_position import box_position
from ..modeling import reference
from ..modeling.test_decoder import HEADS, PADDINGS, POINTS


def decode(decoder, position, queries, memory, image, order, taps=()):
    """One image through the decoder as a loop; boxes are encoded on the padded first level."""
    levels = PADDINGS[image]

    def place(layer, boxes, content):
        boxes = reference.on_levels(boxes, levels)[:, 0]
        pairs = zip(boxes, content, strict=True)
        return np.array([box_position(parameters(position), layer, *pair) for pair in pairs])

    content, boxes = (x[image].detach().numpy() for x in (queries.content, queries.reference))
    start = content, place, boxes
    tokens = memory.tokens[image].numpy()
    return reference.decode(
        parameters(decoder), start, tokens, levels, order, taps, HEADS, POINTS, epsilon=1e-3
    )
