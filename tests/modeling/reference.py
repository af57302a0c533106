"""The rooms of the detector as plain loops over numpy arrays in float64, one image at a time."""

import math

import numpy as np

from ..layers.reference import (
    below,
    deformable_module,
    feed_forward,
    layer_norm,
    linear,
    refine,
    self_attention,
    sigmoid,
    sine_embedding,
)


def resize_mask(padding, height, width):
    """Nearest cell of a mask (H, W): the one that holds the new cell's upper left corner."""
    out = np.zeros((height, width), bool)
    for r in range(height):
        for c in range(width):
            out[r, c] = padding[r * padding.shape[0] // height, c * padding.shape[1] // width]
    return out


def valid_ratio(padding):
    """Unpadded share of (width, height), from the first row and column."""
    height, width = padding.shape
    columns = sum(not padding[0, c] for c in range(width))
    rows = sum(not padding[r, 0] for r in range(height))
    return columns / width, rows / height


def proposals(paddings, anchor_size=0.05):
    """Anchors' logits (S, 4) and validity (S) from the padding masks of all levels."""
    logits, valid = [], []
    for level, padding in enumerate(paddings):
        height, width = padding.shape
        columns = sum(not padding[0, c] for c in range(width))
        rows = sum(not padding[r, 0] for r in range(height))
        for r in range(height):
            for c in range(width):
                size = anchor_size * 2**level
                anchor = ((c + 0.5) / columns, (r + 0.5) / rows, size, size)
                inside = all(0.01 < a < 0.99 for a in anchor) and not padding[r, c]
                valid.append(inside)
                logits.append([math.log(a / (1 - a)) if inside else math.inf for a in anchor])
    return np.array(logits), np.array(valid)


def encoder_reference(paddings):
    """Centres (S, 2) of all cells in fractions of the unpadded image."""
    centers = []
    for padding in paddings:
        ratio_x, ratio_y = valid_ratio(padding)
        height, width = padding.shape
        for r in range(height):
            for c in range(width):
                centers.append(((c + 0.5) / (ratio_x * width), (r + 0.5) / (ratio_y * height)))
    return np.array(centers)


def on_levels(reference, paddings):
    """References (Q, 2 or 4) of the unpadded image on every padded level, (Q, V, 2 or 4)."""
    out = np.zeros((len(reference), len(paddings), reference.shape[1]))
    for v, padding in enumerate(paddings):
        ratio = valid_ratio(padding) * 2
        for q in range(len(reference)):
            for i in range(reference.shape[1]):
                out[q, v, i] = reference[q, i] * ratio[i]
    return out


def box_head(params, x):
    """Three linear layers with ReLU between them."""
    for name in ("0", "2"):
        x = np.maximum(linear(x, below(params, name)), 0)
    return linear(x, below(params, "4"))


def refine_all(deltas, reference, epsilon=1e-5):
    return np.array([refine(d, r, epsilon) for d, r in zip(deltas, reference, strict=True)])


def from_infinite(logits):
    """Sigmoid of anchor logits, 1 where infinite."""
    return np.array([[1.0 if math.isinf(x) else sigmoid(x) for x in row] for row in logits])


def group_norm(x, params, groups=32):
    """(C, H, W), every group of channels normalised over itself and all cells."""
    out = np.zeros_like(x)
    size = len(x) // groups
    for g in range(groups):
        part = slice(g * size, (g + 1) * size)
        mean = x[part].mean()
        out[part] = (x[part] - mean) / np.sqrt(((x[part] - mean) ** 2).mean() + 1e-5)
    return out * params["weight"][:, None, None] + params["bias"][:, None, None]


def convolve(x, params, stride):
    """(C, H, W) with a kernel of odd size, zeros around the map."""
    weight = params["weight"]
    size = weight.shape[2]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height = (x.shape[1] - size) // stride + 1
    width = (x.shape[2] - size) // stride + 1
    out = np.zeros((len(weight), height, width))
    for r in range(height):
        for c in range(width):
            window = x[:, r * stride : r * stride + size, c * stride : c * stride + size]
            out[:, r, c] = (weight * window).sum((1, 2, 3)) + params["bias"]
    return out


def encoder_layer(params, tokens, position, reference, padding, shapes, heads, points):
    """Deformable attention of the tokens to themselves, then the FFN, both post-norm."""
    attention = below(params, "attention")
    update = deformable_module(
        below(attention, "attention"),
        tokens + position,
        reference,
        tokens,
        padding,
        shapes,
        heads,
        points,
    )
    tokens = layer_norm(tokens + update, below(attention, "norm"))
    return ffn(below(params, "ffn"), tokens)


def ffn(params, x):
    update = feed_forward(x, below(params, "linear1"), below(params, "linear2"))
    return layer_norm(x + update, below(params, "norm"))


def queries(params, memory, paddings, num_queries, anchor_size=0.05):
    """The two-stage choice of one image.

    Returns logits (S, K), boxes and anchors (S, 4) of all tokens; content, position and
    reference of the queries; the tokens they came from.
    """
    anchors, valid = proposals(paddings, anchor_size)
    tokens = np.where(valid[:, None], memory, 0.0)
    tokens = linear(tokens, below(params, "token_projection"))
    tokens = layer_norm(tokens, below(params, "token_norm"))
    logits = linear(tokens, below(params, "class_head"))
    unactivated = box_head(below(params, "box_head"), tokens) + anchors
    chosen = sorted(range(len(tokens)), key=lambda s: -logits[s, 0])[:num_queries]
    reference = from_infinite(unactivated[chosen])
    channels = tokens.shape[1]
    embedded = np.array([sine_embedding(box, channels // 2) for box in reference])
    embedded = linear(embedded, below(params, "query_projection"))
    embedded = layer_norm(embedded, below(params, "query_norm"))
    position, content = embedded[:, :channels], embedded[:, channels:]
    if "content" in params:
        content = params["content"][: len(chosen)]
    return (
        (logits, from_infinite(unactivated), from_infinite(anchors)),
        (content, position, reference),
        chosen,
    )


def decode(params, start, memory, paddings, order, taps, heads, points, epsilon=1e-5):
    """One image through the decoder: {source: (logits (L, Q, K), boxes (L, Q, 4))}.

    `start` is content, position (or a function of layer, reference and content) and reference;
    `taps` names the sublayers that are tapped. An output norm is used where there is one.
    """
    content, position, reference = start
    padding = np.concatenate([mask.ravel() for mask in paddings])
    shapes = [mask.shape for mask in paddings]
    made = {"decoder": [], **{f"decoder.{name}": [] for name in taps}}
    index = 0
    while f"class_heads.{index}.weight" in params:
        layer = below(params, f"layers.{index}")
        class_head = below(params, f"class_heads.{index}")
        boxes = below(params, f"box_heads.{index}")

        def predict(x, class_head=class_head, boxes=boxes, reference=reference):
            if "output_norm.weight" in params:
                x = layer_norm(x, below(params, "output_norm"))
            return linear(x, class_head), refine_all(box_head(boxes, x), reference, epsilon)

        x = content
        place = position(index, reference, content) if callable(position) else position
        for name in order:
            sublayer = below(layer, f"sublayers.{name}")
            attention = below(sublayer, "attention")
            if name == "ffn":
                x = ffn(sublayer, x)
            elif name == "self_attention":
                update = self_attention(attention, x + place, x, heads)
                x = layer_norm(x + update, below(sublayer, "norm"))
            else:
                update = deformable_module(
                    attention,
                    x + place,
                    on_levels(reference, paddings),
                    memory,
                    padding,
                    shapes,
                    heads,
                    points,
                )
                x = layer_norm(x + update, below(sublayer, "norm"))
            if name in taps:
                tap = below(layer, f"taps.{name}.ffn")
                made[f"decoder.{name}"].append(predict(ffn(tap, x) if tap else x))
        content = x
        made["decoder"].append(predict(content))
        reference = refine_all(box_head(boxes, content), reference, epsilon)
        index += 1
    return {
        source: (np.stack([a for a, _ in layers]), np.stack([b for _, b in layers]))
        for source, layers in made.items()
    }


def detections(logits, boxes, top_k):
    """(query, class, score, xyxy) of the best pairs of one image, best first."""
    queries, classes = logits.shape
    pairs = [(sigmoid(logits[q, k]), q, k) for q in range(queries) for k in range(classes)]
    pairs.sort(key=lambda pair: -pair[0])
    out = []
    for score, q, k in pairs[:top_k]:
        cx, cy, w, h = boxes[q]
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        out.append((q, k, score, [min(max(x, 0.0), 1.0) for x in box]))
    return out
