"""Where the heads of a query are told to look: Gaussian maps of SMCA and of SAM-DETR with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from torch import Tensor, nn

from ..analysis.attention import Call, cross_attentions, watched
from ..data.images import load_image
from ..errors import ConfigError
from ..evaluation import evaluating
from ..layers import GaussianModulation, ModulatedAttention, SemanticAlignedAttention
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..structures import shown_part
from .canvas import titled
from .scene import (
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


def draw_gaussians(
    model: GeneralizedDETR,
    loader: DictConfig,
    folder: Path,
    count: int = 4,
    query: int | None = None,
    layer: int = -1,
) -> list[Path]:
    """Write a picture an image with a panel a head and a row a level, the query's box in each.

    Args:
        query: the query that is shown; None takes the one with the highest score.
        layer: the decoder's; from -1 on from behind.

    Returns:
        The files.

    Raises:
        ConfigError: for a model without Gaussian maps, or a query or layer that is not there.
    """
    without = {type(x).__name__ for x in cross_attentions(model) if not _is_modulated(x)}
    if without:
        raise ConfigError(
            "Gaussian maps are of modulated attention, SMCA's, or of SAM-DETR with "
            f"gaussian_modulation; this model has {' and '.join(sorted(without))} without"
        )
    expect_layer(layer, len(model.decoder.layers))
    folder.mkdir(parents=True, exist_ok=True)
    # Of several levels a layer of SAM-DETR reads one.
    first = 0 if model.decoder.levels is None else model.decoder.levels[layer]
    chosen, mapper = choose(loader, model.num_classes, count)
    metadata = MetadataCatalog.get(loader.dataset.name)
    files = []
    for record in chosen:
        inputs = mapper(record)
        logits, boxes, levels = _look(model, inputs, layer)
        index = int(logits.amax(-1).argmax()) if query is None else query
        expect_query(index, len(logits))
        image, _ = load_image(record["file_name"])
        corners = pixel_corners(boxes[index], inputs)
        rows = []
        for level, (maps, extent) in enumerate(levels, first):
            panels = []
            for head, gaussian in enumerate(maps[:, index].numpy()):
                panel = enlarged(heated(image, gaussian, extent), metadata)
                panel.draw_box(corners, alpha=0.9, edge_color="w")
                title = f"query {index}, head {head}, level {level}"
                panels.append(titled(panel.output.get_image(), title))
            rows.append(side_by_side(panels))
        files.append(write_picture(folder, record, "gaussians", stacked(rows)))
    return files


def _is_modulated(sublayer: nn.Module) -> bool:
    if isinstance(sublayer, SemanticAlignedAttention):
        return sublayer.modulation is not None
    return isinstance(sublayer, ModulatedAttention)


def _maps(call: Call) -> list[Tensor]:
    """Logarithms of the Gaussians on every level that is read, (B, heads, Q, h * w) each."""
    if isinstance(call.sublayer, ModulatedAttention):
        return call.sublayer.maps(call.context)
    sublayer = cast(SemanticAlignedAttention, call.sublayer)
    modulation = cast(GaussianModulation, sublayer.modulation)
    aligned = sublayer.align(call.x, call.context)
    return [modulation(aligned, call.context.memory.grid).transpose(1, 2)]


def _look(
    model: GeneralizedDETR, inputs: dict[str, Any], layer: int
) -> tuple[Tensor, Tensor, list[tuple[Tensor, tuple[float, float]]]]:
    """Run the model on one image and watch a layer.

    Returns:
        Logits (Q, K), boxes (Q, 4), and of every level the maps (heads, Q, h, w), 1 where they are
        largest, and the width and height that the shown image has of them, in cells.
    """
    part = torch.tensor(shown_part(inputs))
    with evaluating(model), watched(model) as calls:
        made = model.forward_tensors(*model.preprocess([inputs]))[OUTPUT]
        call = calls[layer]
        maps = _maps(call)
    grid = call.context.memory.grid
    levels = [
        (_of_largest(logarithms[0]).unflatten(-1, shape).cpu(), _clipped(extent, shape))
        for logarithms, shape, extent in zip(
            maps, grid.level_shapes, (grid.extents()[0].cpu() * part).tolist(), strict=True
        )
    ]
    return made.logits[-1, 0], made.boxes[-1, 0], levels


def _of_largest(logarithms: Tensor) -> Tensor:
    """Shares of the largest value of each map; a centre far outside leaves none at 0."""
    return (logarithms - logarithms.amax(-1, keepdim=True)).exp()


def _clipped(extent: list[float], shape: tuple[int, int]) -> tuple[float, float]:
    """Not more than there is: a map may have less than the image's last cell."""
    width, height = np.minimum(extent, shape[::-1]).tolist()
    return width, height
