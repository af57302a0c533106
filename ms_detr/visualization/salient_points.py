"""SAM-DETR's salient points, and where each head attends (arXiv:2203.06883, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from matplotlib import colormaps
from omegaconf import DictConfig
from torch import Tensor

from ..analysis.attention import cross_attentions, watched
from ..analysis.maps import unpadded
from ..data.images import load_image
from ..errors import ConfigError
from ..evaluation import evaluating
from ..layers import SemanticAlignedAttention
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..structures import output_scale, shown_part
from .canvas import titled
from .scene import (
    canvas,
    choose,
    enlarged,
    expect_layer,
    expect_query,
    heated,
    pixel_corners,
    side_by_side,
    stacked,
    write_picture,
)

COLORS = colormaps["tab10"]


@dataclass(frozen=True)
class Look:
    """What one query sees in one layer.

    Attributes:
        query: its number.
        box: (4,), where it looks.
        points: (heads, 2) as (x, y) in fractions of the image.
        maps: (heads, h, w), how much each head takes of each cell.
    """

    query: int
    box: Tensor
    points: Tensor
    maps: Tensor


def draw_salient_points(
    model: GeneralizedDETR,
    loader: DictConfig,
    folder: Path,
    count: int = 4,
    queries: Sequence[int] = (),
    layer: int = -1,
) -> list[Path]:
    """Write a picture an image with a row a query: its box and points, and a panel a head.

    A head's panel has its attention and its point in the colour of the first panel.

    Args:
        queries: those that are shown; without any the one with the highest score.
        layer: the decoder's; from -1 on from behind.

    Returns:
        The files.

    Raises:
        ConfigError: for a model without salient points, or a query or layer that is not there.
    """
    kinds = {type(module).__name__ for module in cross_attentions(model)}
    if kinds != {SemanticAlignedAttention.__name__}:
        raise ConfigError(
            f"salient points are of SAM-DETR; this model has {' and '.join(sorted(kinds))}"
        )
    expect_layer(layer, len(model.decoder.layers))
    folder.mkdir(parents=True, exist_ok=True)
    chosen, mapper = choose(loader, model.num_classes, count)
    metadata = MetadataCatalog.get(loader.dataset.name)
    files = []
    for record in chosen:
        inputs = mapper(record)
        looks = _looks(model, inputs, queries, layer)
        rows = [_row(record, inputs, metadata, look) for look in looks]
        files.append(write_picture(folder, record, "salient_points", stacked(rows)))
    return files


def _looks(
    model: GeneralizedDETR, inputs: dict[str, Any], queries: Sequence[int], layer: int
) -> list[Look]:
    """Run the model on one image and watch a layer."""
    with evaluating(model), watched(model) as calls:
        logits = model.forward_tensors(*model.preprocess([inputs]))[OUTPUT].logits[-1, 0]
        numbers = list(queries) or [int(logits.amax(-1).argmax())]
        for number in numbers:
            expect_query(number, len(logits))
        call = calls[layer].of(torch.tensor(numbers, device=logits.device))
        sublayer = cast(SemanticAlignedAttention, call.sublayer)
        points = sublayer.align(call.x, call.context).points[0]
        weights = sublayer.head_weights(call.x, call.context)
    (maps,) = unpadded(call.context.memory.grid, weights.permute(0, 3, 2, 1))
    seen = maps.permute(2, 3, 0, 1)
    parts = (call.context.reference[0], points, seen)
    return [
        Look(*found)
        for found in zip(numbers, *(part.cpu().unbind(0) for part in parts), strict=True)
    ]


def _row(record: dict[str, Any], inputs: dict[str, Any], metadata: Any, look: Look) -> np.ndarray:
    """The panels of a query side by side."""
    image, _ = load_image(record["file_name"])
    places = (look.points * look.points.new_tensor(output_scale(inputs))).numpy()
    corners = pixel_corners(look.box, inputs)
    cells, (width, height) = look.maps.shape[-2:], shown_part(inputs)
    part = (width * cells[1], height * cells[0])
    radius = max(record["width"], record["height"]) / 60
    first = canvas(record, metadata)
    first.draw_box(corners, alpha=0.9, edge_color="w")
    panels = []
    for head, (place, seen) in enumerate(zip(places, look.maps, strict=True)):
        panel = enlarged(heated(image, (seen / seen.max()).numpy(), part), metadata)
        panel.draw_box(corners, alpha=0.9, edge_color="w")
        for drawn in (first, panel):
            drawn.draw_circle(tuple(place), color=COLORS(head % 10)[:3], radius=radius)
        title = f"query {look.query}, head {head}"
        panels.append(titled(panel.output.get_image(), title))
    title = f"query {look.query}, {len(places)} points"
    return side_by_side([titled(first.output.get_image(), title), *panels])
