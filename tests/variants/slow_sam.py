"""SAM-DETR's decoder as plain loops in float64, one image at a time, with gradients."""

import math

import torch

from ..layers.aligned_reference import attention, layer_norm, sine
from ..layers.reference import below, linear


def conditional_self_attention(params, x, place, heads):
    """The update (Q, C); content and position are projected apart, then added."""

    def project(name, values):
        return linear(values, below(params, name))

    query = project("content_query", x) + project("position_query", place)
    key = project("content_key", x) + project("position_key", place)
    value, size = project("value", x), x.shape[1] // heads
    rows = []
    for q in range(len(x)):
        read = []
        for m in range(heads):
            part = slice(m * size, (m + 1) * size)
            logits = [query[q, part] @ key[k, part] / math.sqrt(size) for k in range(len(x))]
            read.append(torch.stack(logits).softmax(0) @ value[:, part])
        rows.append(torch.cat(read))
    return project("output", torch.stack(rows))


def box_head(params, x):
    for name in ("0", "2"):
        x = linear(x, below(params, name)).clamp(min=0)
    return linear(x, below(params, "4"))


def inverse_sigmoid(x, epsilon=1e-5):
    return (x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon)).log()


def decode(params, table, maps, levels, heads, smoothing=None):
    """Logits (L, Q, K) and boxes (L, Q, 4) of one image.

    Args:
        table: logits of the boxes, (Q, 4).
        maps: of every level the tokens (S, C), their positions and the padding mask (h, w).
        levels: the one that each layer reads.
    """
    channels = maps[0][0].shape[1]
    x = torch.zeros(len(table), channels, dtype=torch.float64)
    chain = table
    classes, boxes = [], []
    for index, level in enumerate(levels):
        layer = below(params, f"layers.{index}.sublayers")
        reference = chain.sigmoid()
        place = torch.stack([sine(box[:2], channels) for box in reference])
        own = below(layer, "self_attention")
        update = conditional_self_attention(own, x, place, heads)
        x = layer_norm(x + update, below(own, "norm"))
        cross = below(layer, "cross_attention")
        update = attention(cross, x, reference, *maps[level], heads, smoothing)
        x = layer_norm(x + update, below(cross, "norm"))
        ffn = below(layer, "ffn")
        update = linear(linear(x, below(ffn, "linear1")).clamp(min=0), below(ffn, "linear2"))
        x = layer_norm(x + update, below(ffn, "norm"))
        classes.append(linear(x, below(params, f"class_heads.{index}")))
        delta = box_head(below(params, f"box_heads.{index}"), x)
        boxes.append((inverse_sigmoid(reference) + delta).sigmoid())
        chain = (chain + delta).detach()
    return torch.stack(classes), torch.stack(boxes)
