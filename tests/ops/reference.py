"""Multi-scale deformable attention as plain loops in float64 (arXiv:2010.04159, Eq. 3)."""

import math

import numpy as np


def bilinear(cells, x, y):
    """Value of a map (H, W, D) at (x, y): 0 and 1 are its outer edges, all is zero beyond."""
    height, width, channels = cells.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = np.zeros(channels)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * cells[r, c]
    return total


def deformable_attention(value, level_shapes, locations, weights):
    """(B, S, M, D), (B, Q, M, V, P, 2), (B, Q, M, V, P) -> (B, Q, M * D)."""
    images, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    out = np.zeros((images, queries, heads * channels))
    for b in range(images):
        for m in range(heads):
            start = 0
            for v, (height, width) in enumerate(level_shapes):
                cells = value[b, start : start + height * width, m].reshape(height, width, -1)
                start += height * width
                for q in range(queries):
                    for p in range(points):
                        x, y = locations[b, q, m, v, p]
                        sample = bilinear(cells, x, y)
                        out[b, q, m * channels : (m + 1) * channels] += (
                            weights[b, q, m, v, p] * sample
                        )
    return out
