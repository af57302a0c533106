"""What an exported file tells of itself: names of classes, how images are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.data import transforms as T
from PIL import Image

from .. import __version__
from ..data.augmentation import PadToSquare
from .interface import Exported


def facts_of(exported: Exported, least: Sequence[int]) -> dict[str, Any]:
    """Return what a user of the file has to know, as plain values for JSON.

    Args:
        least: height and width that padded images have at least.
    """
    model, form = exported.model, exported.form
    usage = model.usage
    nms = model.postprocess.nms
    left_out = None if nms is None else vars(nms) | {"kind": type(nms).__name__}
    return {
        "ms_detr": __version__,
        "class_names": list(model.class_names),
        "preprocessing": {
            "resize": None
            if usage is None
            else [_step(x) for x in usage.mapper.augmentations.augs],
            "inside": form.preprocess,
            "channels": "RGB" if form.preprocess or usage is None else usage.mapper.image_format,
            "pixel_mean": model.pixel_mean.flatten().tolist(),
            "pixel_std": model.pixel_std.flatten().tolist(),
            "least_sides": list(least),
            "multiple_of": exported.divisor,
        },
        "postprocessing": {
            "inside": form.postprocess,
            "scores": model.decoder.class_heads[-1].probability.__name__,
            "top_k": model.postprocess.top_k,
            "left_out": left_out,
        },
        "outputs": list(exported.outputs.names),
        "sampling": "gather" if form.gather else "grid_sample",
    }


def _step(augmentation: Any) -> dict[str, Any]:
    """An augmentation of test images by its kind; others than ours by what they call themselves."""
    if isinstance(augmentation, T.ResizeShortestEdge) and _is_fixed(augmentation):
        edge = int(augmentation.short_edge_length[0])
        return {"kind": "resize_shortest_edge", "edge": edge, "max": int(augmentation.max_size)}
    if isinstance(augmentation, PadToSquare):
        value = float(augmentation.pad_value)
        return {"kind": "pad_to_square", "size": augmentation.size, "value": value}
    return {"kind": "other", "what": str(augmentation)}


def _is_fixed(resize: T.ResizeShortestEdge) -> bool:
    lengths = set(resize.short_edge_length)
    return len(lengths) == 1 and resize.interp == Image.Resampling.BILINEAR
