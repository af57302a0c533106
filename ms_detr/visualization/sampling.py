"""Where a query looks: its reference box and sampling points in every decoder layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from matplotlib import colormaps
from omegaconf import DictConfig
from torch import Tensor

from ..analysis.attention import Call, cross_attentions, watched
from ..errors import ConfigError
from ..evaluation import evaluating
from ..layers import DeformableSublayer
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..structures import output_scale, output_size, valid_ratio
from .canvas import titled
from .scene import canvas, choose, expect_query, pixel_corners, side_by_side, write_picture


def draw_sampling(
    model: GeneralizedDETR,
    loader: DictConfig,
    folder: Path,
    count: int = 4,
    query: int | None = None,
) -> list[Path]:
    """Write a picture an image with a panel a layer: reference box, points by level and weight.

    Args:
        query: the query that is shown; None takes the one with the highest score.

    Returns:
        The files.

    Raises:
        ConfigError: for a model without deformable cross-attention, or a query that is not there.
    """
    kinds = {type(module).__name__ for module in cross_attentions(model)}
    if kinds != {DeformableSublayer.__name__}:
        raise ConfigError(
            "sampling points are of deformable cross-attention; this model has "
            f"{' and '.join(sorted(kinds))}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    chosen, mapper = choose(loader, model.num_classes, count)
    metadata = MetadataCatalog.get(loader.dataset.name)
    files = []
    for record in chosen:
        inputs = mapper(record)
        calls, logits, ratios = _record_calls(model, inputs)
        index = int(logits.amax(-1).argmax()) if query is None else query
        expect_query(index, len(logits))
        panels = []
        for layer, (reference, locations, weights) in enumerate(calls):
            panel = canvas(record, metadata)
            box = pixel_corners(reference[index], inputs)
            if reference.shape[-1] == 4:
                panel.draw_box(box, alpha=0.9, edge_color="w")
            _draw_points(panel, locations[index] / ratios, weights[index], inputs)
            panels.append(titled(panel.output.get_image(), f"query {index}, layer {layer}"))
        files.append(write_picture(folder, record, "sampling", side_by_side(panels)))
    return files


def _record_calls(model: GeneralizedDETR, inputs: dict[str, Any]) -> tuple[list, Tensor, Tensor]:
    """Run the model on one image and watch its cross-attention.

    Returns:
        A triple a layer of references (Q, 2 or 4), locations
        (Q, heads, V, points, 2) and weights (Q, heads, V, points); logits (Q, K); and the valid
        share of width and height (2,).
    """
    with evaluating(model), watched(model) as calls:
        images, padding_mask = model.preprocess([inputs])
        predictions = model.forward_tensors(images, padding_mask)
        samples = [_samples(call) for call in calls]
    ratios = valid_ratio(padding_mask, torch.float32)[0]
    return samples, predictions[OUTPUT].logits[-1, 0], ratios


def _samples(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """References, locations and weights of one layer."""
    context, attention = call.context, cast(DeformableSublayer, call.sublayer).attention
    query = call.x + context.position
    locations, weights = attention.samples(query, context.reference, context.memory)
    return context.reference[0], locations[0], weights[0]


def _draw_points(panel: Any, locations: Tensor, weights: Tensor, inputs: dict[str, Any]) -> None:
    """Circles as large as their weights, a colour a level."""
    pixels = (locations * locations.new_tensor(output_scale(inputs))).cpu().numpy()
    strength = np.sqrt((weights / weights.max()).cpu().numpy())
    heads, levels, points = strength.shape
    radius = max(output_size(inputs)) / 60
    for head in range(heads):
        for level in range(levels):
            for point in range(points):
                panel.draw_circle(
                    tuple(pixels[head, level, point]),
                    color=colormaps["tab10"](level)[:3],
                    radius=radius * strength[head, level, point],
                )
