"""Detectron2's point functions (PointRend, arXiv:1912.08193), for logits (N, h, w)."""

from __future__ import annotations

from detectron2.projects.point_rend.point_features import (
    get_uncertain_point_coords_with_randomness,
    point_sample,
)
from torch import Tensor


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps (N, C, h, w) at points (N, P, 2) in [0, 1] as (x, y), (N, C, P)."""
    return point_sample(maps, points, align_corners=False)


def uncertain_points(
    logits: Tensor, num_points: int, oversample: float, importance: float
) -> Tensor:
    """Points where masks are undecided, (N, P, 2), for logits (N, h, w).

    Of ``oversample`` times as many uniform points those with the least ``|logit|`` make up the
    share ``importance``; the rest are uniform (PointRend, section 3.1).
    """
    return get_uncertain_point_coords_with_randomness(
        logits[:, None], lambda x: -x.abs(), num_points, oversample, importance
    )
