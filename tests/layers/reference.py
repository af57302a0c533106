"""The layers as plain loops over numpy arrays in float64, one sample at a time."""

import math

import numpy as np

from ..ops.reference import deformable_attention


def parameters(module):
    """A module's parameters and buffers by name, as float64 arrays."""
    return {name: x.detach().double().numpy() for name, x in module.state_dict().items()}


def below(params, prefix):
    """The parameters of a child, without its prefix."""
    prefix += "."
    return {name[len(prefix) :]: x for name, x in params.items() if name.startswith(prefix)}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def inverse_sigmoid(x, epsilon=1e-5):
    x = min(max(x, 0.0), 1.0)
    return math.log(max(x, epsilon) / max(1 - x, epsilon))


def refine(delta, reference, epsilon=1e-5):
    """One box from a correction (4) and a box (4) or point (2)."""
    box = []
    for i in range(4):
        logit = delta[i]
        if i < len(reference):
            logit += inverse_sigmoid(reference[i], epsilon)
        box.append(sigmoid(logit))
    return box


def corners(box):
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _iou_and_union(a, b):
    ax1, ay1, ax2, ay2 = corners(a)
    bx1, by1, bx2, by2 = corners(b)
    width = max(0.0, min(ax2, bx2) - max(ax1, bx1))
    height = max(0.0, min(ay2, by2) - max(ay1, by1))
    inter = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    return (inter / union if union > 0 else 0.0), union


def iou(a, b):
    return _iou_and_union(a, b)[0]


def giou(a, b):
    ax1, ay1, ax2, ay2 = corners(a)
    bx1, by1, bx2, by2 = corners(b)
    overlap, union = _iou_and_union(a, b)
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return overlap - (hull - union) / hull if hull > 0 else 0.0


def sine_embedding(values, channels, temperature=10000.0):
    """Scalars (n) -> (n * channels)."""
    out = []
    for value in values:
        for i in range(channels):
            angle = 2 * math.pi * value / temperature ** (2 * (i // 2) / channels)
            out.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    return np.array(out)


def sine_position(padding, embed_dim, temperature=10000.0, offset=-0.5):
    """Padding mask (H, W) -> (H, W, embed_dim), y first; NaN where a row or column is empty."""
    height, width = padding.shape
    out = np.full((height, width, embed_dim), np.nan)
    for r in range(height):
        for c in range(width):
            above = sum(not padding[k, c] for k in range(r + 1))
            left = sum(not padding[r, k] for k in range(c + 1))
            all_above = sum(not padding[k, c] for k in range(height))
            all_left = sum(not padding[r, k] for k in range(width))
            if all_above and all_left:
                y = (above + offset) / (all_above + 1e-6)
                x = (left + offset) / (all_left + 1e-6)
                out[r, c] = sine_embedding([y, x], embed_dim // 2, temperature)
    return out


def linear(x, params):
    return x @ params["weight"].T + params["bias"]


def layer_norm(x, params):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * params["weight"] + params["bias"]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def sampling_locations(offsets, reference, level_shapes):
    """Offsets (Q, M, V, P, 2) and references (Q, V, 2 or 4) -> locations (Q, M, V, P, 2)."""
    out = np.zeros_like(offsets)
    queries, heads, levels, points, _ = offsets.shape
    for q in range(queries):
        for m in range(heads):
            for v in range(levels):
                height, width = level_shapes[v]
                for p in range(points):
                    dx, dy = offsets[q, m, v, p]
                    r = reference[q, v]
                    if len(r) == 2:
                        out[q, m, v, p] = r[0] + dx / width, r[1] + dy / height
                    else:
                        out[q, m, v, p] = (
                            r[0] + dx / points * r[2] * 0.5,
                            r[1] + dy / points * r[3] * 0.5,
                        )
    return out


def deformable_module(params, query, reference, memory, padding, level_shapes, heads, points):
    """Query (Q, C), reference (Q, V, 2 or 4), memory (S, C), padding (S) -> (Q, C)."""
    queries, channels = query.shape
    levels = len(level_shapes)
    value = linear(memory, below(params, "value_proj"))
    value[padding] = 0
    value = value.reshape(-1, heads, channels // heads)
    offsets = linear(query, below(params, "sampling_offsets"))
    offsets = offsets.reshape(queries, heads, levels, points, 2)
    logits = linear(query, below(params, "attention_weights"))
    logits = logits.reshape(queries, heads, levels * points)
    weights = np.zeros_like(logits)
    for q in range(queries):
        for m in range(heads):
            weights[q, m] = softmax(logits[q, m])
    weights = weights.reshape(queries, heads, levels, points)
    locations = sampling_locations(offsets, reference, level_shapes)
    out = deformable_attention(value[None], level_shapes, locations[None], weights[None])[0]
    return linear(out, below(params, "output_proj"))


def self_attention(params, query_and_key, value, heads):
    """(Q, C), (Q, C) -> (Q, C), with `in_proj_*` and `out_proj.*` of `nn.MultiheadAttention`."""
    channels = value.shape[1]
    size = channels // heads
    weight, bias = params["in_proj_weight"], params["in_proj_bias"]
    q = query_and_key @ weight[:channels].T + bias[:channels]
    k = query_and_key @ weight[channels : 2 * channels].T + bias[channels : 2 * channels]
    v = value @ weight[2 * channels :].T + bias[2 * channels :]
    out = np.zeros_like(value)
    for m in range(heads):
        part = slice(m * size, (m + 1) * size)
        for i in range(len(value)):
            scores = np.array([q[i, part] @ k[j, part] / math.sqrt(size) for j in range(len(k))])
            out[i, part] = softmax(scores) @ v[:, part]
    return linear(out, below(params, "out_proj"))


def feed_forward(x, first, second):
    """Linear, ReLU, linear."""
    return linear(np.maximum(linear(x, first), 0), second)
