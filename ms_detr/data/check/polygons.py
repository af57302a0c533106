"""Polygons whose edges cross each other."""

from __future__ import annotations

import numpy as np

CHUNK = 256  # edges that are compared with all at once


def crosses_itself(polygon: np.ndarray) -> bool:
    """Tell whether two edges of a polygon cross at a point inside of both.

    Edges that only touch, in a corner or along a line, don't count: outlines that follow pixels
    have them.

    Args:
        polygon: x1, y1, x2, y2, ...; the last point is joined with the first.
    """
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    points = points[(points != np.roll(points, 1, 0)).any(1)]
    if len(points) < 4:
        return False
    edges = np.stack([points, np.roll(points, -1, 0)], 1)
    for start in range(0, len(edges), CHUNK):
        some, others = edges[start : start + CHUNK], edges[start + 1 :]
        near = ((others.min(1) < some.max((0, 1))) & (others.max(1) > some.min((0, 1)))).all(1)
        others = others[near]
        for other in range(0, len(others), 16 * CHUNK):  # or it would take much memory
            if _any_cross(some, others[other : other + 16 * CHUNK]):
                return True
    return False


def _any_cross(some: np.ndarray, others: np.ndarray) -> bool:
    """Tell whether an edge (n, 2, 2) of some crosses one of others (m, 2, 2)."""
    a, b = some[:, None, 0], some[:, None, 1]  # (n, 1, 2)
    c, d = others[None, :, 0], others[None, :, 1]  # (1, m, 2)
    apart = _side(a, b, c) * _side(a, b, d) < 0
    return bool((apart & (_side(c, d, a) * _side(c, d, b) < 0)).any())


def _side(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return 1, -1 or 0 (n, m): left of a line, right of it, or on it."""
    along, to = end - start, point - start
    return np.sign(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0])
