"""What a demo image is made of: outlines, masks, textures and backgrounds.

Pure functions of their arguments and of the given ``numpy.random.Generator``; the numbers that
make the demo dataset what it is stand in :class:`ms_detr.data.DemoSpec`.

Coordinates are pixels, x to the right and y down; pixel ``(column, row)`` covers
``[column, column + 1) x [row, row + 1)``. Polygons are float arrays (N, 2) of (x, y). Colours are
float arrays (3,) in 0..255, RGB.
"""

import numpy as np

from .segmentation import to_bitmap

SHAPES = ("ellipse", "rectangle", "triangle", "star", "plus", "ring")
TEXTURES = ("plain", "stripes", "checker", "noise")


def _arc(start: float, stop: float, radius: float, points: int) -> np.ndarray:
    angle = np.linspace(start, stop, points)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _unit_outlines() -> dict[str, list[np.ndarray]]:
    """Every shape as polygons that fit the square [-0.5, 0.5]^2."""
    star_radius = np.where(np.arange(10) % 2 == 0, 0.5, 0.21)[:, None]
    a, b = 0.5, 1 / 6
    plus = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b)]
    plus += [(b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]

    def half_ring(start: float) -> np.ndarray:
        return np.concatenate(
            [_arc(start, start + np.pi, 0.5, 19), _arc(start + np.pi, start, 0.26, 19)]
        )

    return {
        "ellipse": [_arc(0, 2 * np.pi, 0.5, 37)[:-1]],
        "rectangle": [np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])],
        "triangle": [np.array([(-0.5, 0.5), (0.0, -0.5), (0.5, 0.5)])],
        "star": [star_radius * _arc(-np.pi / 2, 1.5 * np.pi, 1.0, 11)[:-1]],
        "plus": [np.array(plus)],
        # A COCO polygon has no hole, so a ring is two half rings that share their cuts.
        "ring": [half_ring(0.0), half_ring(np.pi)],
    }


_OUTLINES = _unit_outlines()


def outline(
    shape: str, center: tuple[float, float], width: float, height: float, angle: float, size: int
) -> list[np.ndarray]:
    """The polygons of a shape in an image of ``size`` x ``size`` pixels.

    Args:
        shape: one of :data:`SHAPES`.
        center: (x, y) in pixels.
        width, height: extents in pixels before the rotation.
        angle: rotation in radians.
        size: side of the image; what lies outside is cut off.

    Returns:
        Polygons (N, 2) rounded to 0.01 pixel, as they are written to the annotation file: the
        pixels are drawn from the rounded numbers, so that file and picture agree exactly. Empty
        if nothing of the shape lies in the image.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])
    polygons = []
    for unit in _OUTLINES[shape]:
        polygon = (unit * (width, height)) @ rotation + center
        polygon = np.round(_clip(polygon, float(size)), 2)
        if len(polygon) >= 3:
            polygons.append(polygon)
    return polygons


def _clip(polygon: np.ndarray, size: float) -> np.ndarray:
    """Cut a polygon to [0, size]^2, one border after the other (Sutherland-Hodgman)."""
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, -size), (1, 1, 0.0), (1, -1, -size)):
        distance = sign * polygon[:, axis] - limit
        if (distance >= 0).all():
            continue
        kept = []
        for i in range(len(polygon)):
            before, here = distance[i - 1], distance[i]
            if (before >= 0) != (here >= 0):
                kept.append(
                    polygon[i - 1] + before / (before - here) * (polygon[i] - polygon[i - 1])
                )
            if here >= 0:
                kept.append(polygon[i])
        if not kept:
            return np.zeros((0, 2))
        polygon = np.array(kept)
    return polygon


def rasterize(polygons: list[np.ndarray], size: int) -> np.ndarray:
    """Boolean mask (size, size) of the union of the polygons, by COCO's own rule."""
    if not polygons:
        return np.zeros((size, size), dtype=bool)
    return to_bitmap([polygon.ravel() for polygon in polygons], size, size).astype(bool)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE of a boolean mask: run lengths in column order, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x, y, width, height) of a mask's pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def paint(
    canvas: np.ndarray,
    mask: np.ndarray,
    texture: str,
    colors: tuple[np.ndarray, np.ndarray],
    cell: float,
    angle: float,
    rng: np.random.Generator,
) -> None:
    """Fill the mask's pixels of a float canvas (H, W, 3) in place.

    Args:
        texture: one of :data:`TEXTURES`; all but "plain" mix the two colours.
        cell: width in pixels of a stripe or of a square of the checker.
        angle: direction of stripes and checker, in radians.
    """
    x, y, width, height = extent(mask)
    window = (slice(y, y + height), slice(x, x + width))
    if texture == "plain":
        share = np.zeros((height, width))
    elif texture == "noise":
        share = rng.random((height, width))
    else:
        rows, columns = np.mgrid[window]
        share = np.floor((columns * np.cos(angle) + rows * np.sin(angle)) / cell) % 2
        if texture == "checker":
            across = np.floor((rows * np.cos(angle) - columns * np.sin(angle)) / cell) % 2
            share = (share + across) % 2
    filled = colors[0] + share[..., None] * (colors[1] - colors[0])
    inside = mask[window]
    canvas[window][inside] = filled[inside]


def background(size: int, grid: int, bars: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random colour field with thin bars on it, float32 (size, size, 3).

    Args:
        grid: random colours per side, interpolated linearly in between.
        bars: number of bars: 1 to 3 pixels wide, an eighth to a half of the image long.
    """
    colors = rng.uniform(0, 255, (grid, grid, 3))
    position = (np.arange(size) + 0.5) / size * (grid - 1)
    left = np.minimum(position.astype(int), grid - 2)
    weights = np.zeros((size, grid))
    weights[np.arange(size), left] = 1 - (position - left)
    weights[np.arange(size), left + 1] = position - left
    field = np.einsum("yi,ixc->yxc", weights, np.einsum("xj,ijc->ixc", weights, colors))
    field = field.astype(np.float32)
    for _ in range(bars):
        length, thickness = rng.uniform(size / 8, size / 2), rng.uniform(1.0, 3.0)
        center = rng.uniform(0, size, 2)
        polygons = outline(
            "rectangle", tuple(center), length, thickness, rng.uniform(0, np.pi), size
        )
        field[rasterize(polygons, size)] = rng.uniform(0, 255, 3)
    return field
