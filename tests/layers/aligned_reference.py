"""SAM-DETR's cross-attention as plain loops in float64, one image at a time, with gradients.

What published code keeps from learning is detached here as well.
"""

import math

import numpy as np
import torch

from .reference import below, linear

CELLS = 7


def sine(point, channels):
    """A place (x, y) -> (channels): half for y, then half for x; no gradient."""
    out = []
    for value in (point[1].item(), point[0].item()):
        for i in range(channels // 2):
            angle = 2 * math.pi * value / 10000 ** (2 * (i // 2) / (channels // 2))
            out.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    return torch.tensor(out, dtype=torch.float64)


def hats(place, count):
    """What each of so many cells counts for a place between their centres; 0 beyond them."""
    cells = [(1 - (place - cell).abs()).clamp(min=0) for cell in range(count)]
    return torch.stack(cells)


def bilinear(maps, x, y):
    """(C, h, w) -> (C)."""
    columns, rows = hats(x, maps.shape[2]), hats(y, maps.shape[1])
    return (maps * rows[:, None] * columns).sum((1, 2))


def region(maps, box, ratios):
    """RoIAlign of a box (cx, cy, w, h), (C, 7, 7); as many samples as the box has cells."""
    _, height, width = maps.shape
    cx, cy, w, h = box.tolist()
    # From corners, as regions are given: a size far below a cell is lost in them.
    left, right = ((cx + side * w) * width * ratios[0] - 0.5 for side in (-0.5, 0.5))
    top, bottom = ((cy + side * h) * height * ratios[1] - 0.5 for side in (-0.5, 0.5))
    across, down = (right - left) / CELLS, (bottom - top) / CELLS
    samples = math.ceil(across), math.ceil(down)
    weights = np.zeros((CELLS, CELLS, height, width))
    for i in range(CELLS):
        for j in range(CELLS):
            for a in range(samples[1]):
                for b in range(samples[0]):
                    x = left + across * (j + (b + 0.5) / samples[0])
                    y = top + down * (i + (a + 0.5) / samples[1])
                    if -1 <= x <= width and -1 <= y <= height:
                        count_cells(weights[i, j], x, y, 1 / (samples[0] * samples[1]))
    return torch.einsum("ijrc,krc->kij", torch.from_numpy(weights), maps)


def count_cells(weights, x, y, share):
    """Add a bilinear sample to the weights of the cells (h, w); at the border it is held."""
    height, width = weights.shape
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    for r in range(height):
        for c in range(width):
            weights[r, c] += share * max(0, 1 - abs(x - c)) * max(0, 1 - abs(y - r))


def align(params, x, box, maps, ratios, heads):
    """One query x (C) at a box: contents and positions (heads, C), points and scales."""
    read = region(maps, box, ratios)
    conv = params["predictor.0.weight"][:, :, 0, 0], params["predictor.0.bias"]
    values = torch.einsum("oc,cij->oij", conv[0], read) + conv[1][:, None, None]
    values = values.clamp(min=0).reshape(-1)
    for index in (3, 5, 7):
        values = linear(values, below(params, f"predictor.{index}")).clamp(min=0)
    values = linear(values, below(params, "predictor.9"))
    gates = [linear(x, below(params, f"{kind}_gate")) for kind in ("content", "position")]
    channels = len(x)
    contents, positions, points, scales = [], [], [], []
    for m in range(heads):
        delta = values[2 * m : 2 * m + 2].tanh()
        # From -1 to 1 the region has seven cells.
        inside = (delta + 1) / 2 * CELLS - 0.5
        gated = [torch.sigmoid(gate[m * channels : (m + 1) * channels]) for gate in gates]
        point = box[:2] + 0.5 * box[2:] * delta
        contents.append(bilinear(read, *inside) * gated[0])
        positions.append(sine(point, channels) * gated[1])
        points.append(point)
        start = 2 * heads + 2 * m
        scales.append(values[start : start + 2])
    return contents, positions, points, scales


def mlp(params, x):
    return linear(linear(x, below(params, "0")).clamp(min=0), below(params, "2"))


def attention(params, x, boxes, tokens, places, padding, heads, smoothing=None):
    """The update (Q, C) of queries x (Q, C), by a map's padding mask (h, w).

    With `smoothing` the logits of a head are those around its point alone.
    """
    height, width = padding.shape
    ratios = (~padding[0]).mean(), (~padding[:, 0]).mean()
    maps = tokens.T.reshape(-1, height, width)
    seen = [s for s in range(len(tokens)) if not padding[s // width, s % width]]
    keys = linear(tokens, below(params, "content_key")) + mlp(below(params, "position_key"), places)
    values = linear(tokens, below(params, "value"))
    channels = x.shape[1]
    rows = []
    for q in range(len(x)):
        found = align(below(params, "aligner"), x[q], boxes[q], maps, ratios, heads)
        read = []
        for m, (content, position, point, scale) in enumerate(zip(*found, strict=True)):
            query = linear(content, below(params, "content_query"))
            query = query + mlp(below(params, "position_query"), position)
            logits = []
            for s in seen:
                logit = query @ keys[s] / math.sqrt(channels)
                if smoothing is not None:
                    dx = point[0] * width * ratios[0] - (s % width + 0.5)
                    dy = point[1] * height * ratios[1] - (s // width + 0.5)
                    logit = logit - (dx**2 * scale[0] ** 2 + dy**2 * scale[1] ** 2) / smoothing
                logits.append(logit)
            part = slice(m * channels // heads, (m + 1) * channels // heads)
            read.append(torch.stack(logits).softmax(0) @ values[seen, part])
        rows.append(linear(torch.cat(read), below(params, "output")))
    return torch.stack(rows)


def layer_norm(x, params):
    """With the biased variance."""
    centered = x - x.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    return centered / (variance + 1e-5).sqrt() * params["weight"] + params["bias"]
