"""Pixels as COCO's run lengths (RLE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .dataset import Box


def encode(bitmap: np.ndarray) -> dict[str, Any]:
    """Return a bitmap (H, W) as compressed RLE for JSON."""
    runs = coco_mask.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    return {"size": list(bitmap.shape), "counts": runs["counts"].decode()}


def box_of(runs: Mapping[str, Any]) -> Box:
    """Return the box round the pixels of an RLE."""
    x, y, w, h = coco_mask.toBbox(dict(runs)).tolist()
    return x, y, w, h
