"""What a model input shows, and in which pixels predictions of it are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shown_size(x: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of what a model input shows, at the upper left of its image.

    What lies beyond is padding that counts as image, such as that of a square for testing.
    """
    height, width = x.get("shown_size", x["image"].shape[-2:])
    return height, width


def output_size(x: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of what is predicted for a model input."""
    height, width = shown_size(x)
    return x.get("height", height), x.get("width", width)


def output_scale(x: Mapping[str, Any]) -> tuple[float, float]:
    """Pixels of the output, in x and y, that the width and height of the whole image stand for."""
    (height, width), shown, output = x["image"].shape[-2:], shown_size(x), output_size(x)
    return width * output[1] / shown[1], height * output[0] / shown[0]


def shown_part(x: Mapping[str, Any]) -> tuple[float, float]:
    """Which part of the width and the height of a model input's image is shown, at most 1."""
    (height, width), shown = x["image"].shape[-2:], shown_size(x)
    return shown[1] / width, shown[0] / height
