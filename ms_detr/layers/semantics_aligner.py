"""SAM-DETR's semantics aligner (arXiv:2203.06883): queries made of what lies in their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from ..errors import ConfigError
from ..structures import Memory, TokenGrid
from .boxes import cxcywh_to_xyxy
from .position import sine_embedding
from .query_position import YX
from .transformer import init_transformer

CELLS = 7  # of a region, across and down


@dataclass(frozen=True)
class AlignedQueries:
    """Queries in the space of the tokens, one for every head.

    Attributes:
        content: (B, Q, heads, C), read at the salient points and gated.
        position: (B, Q, heads, C), sine embeddings of the points, gated.
        points: (B, Q, heads, 2) as (x, y) in fractions of the unpadded image.
        scales: (B, Q, heads, n), what else is predicted with the points.
    """

    content: Tensor
    position: Tensor
    points: Tensor
    scales: Tensor


class SemanticsAligner(nn.Module):
    """Finds a salient point for every head in a query's box and reads the map there.

    RoIAlign reads the box (Eq. 2), a small network predicts the points in it (Eq. 4), where the
    region is read once more (Eq. 5); what is read and the points' sine embeddings (Eq. 6) are
    gated by the query's content (Eq. 7, 8). Boxes learn nothing from what is read in them, nor
    points from their embeddings.

    Args:
        num_scales: values that are predicted with every point, without activation.
    """

    def __init__(self, embed_dim: int, num_heads: int, num_scales: int = 0):
        super().__init__()
        if embed_dim % 4:
            raise ConfigError(f"model.embed_dim must be a multiple of 4, got {embed_dim}")
        self.num_heads = num_heads
        self.num_scales = num_scales
        narrow, wide = embed_dim // 4, 2 * embed_dim
        last = nn.Linear(wide, (2 + num_scales) * num_heads)
        self.predictor = nn.Sequential(
            nn.Conv2d(embed_dim, narrow, kernel_size=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(narrow * CELLS**2, embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, wide),
            nn.ReLU(),
            nn.Linear(wide, wide),
            nn.ReLU(),
            last,
        )
        nn.init.zeros_(last.bias)
        self.content_gate = nn.Linear(embed_dim, num_heads * embed_dim)
        self.position_gate = nn.Linear(embed_dim, num_heads * embed_dim)
        init_transformer(self)

    def forward(self, x: Tensor, reference: Tensor, memory: Memory) -> AlignedQueries:
        """Align queries x (B, Q, C) at boxes (B, Q, 4) with a memory of one level."""
        regions = read_regions(memory, reference)
        predicted = self.predictor(regions.flatten(0, 1).to(x.dtype)).to(reference.dtype)
        predicted = predicted.unflatten(0, x.shape[:2])
        deltas, scales = predicted.tensor_split([2 * self.num_heads], -1)
        deltas = deltas.tanh().unflatten(-1, (self.num_heads, 2))
        center, size = reference[:, :, None].split(2, -1)
        points = center + 0.5 * size * deltas
        content = read_points(regions, deltas).to(x.dtype)
        position = sine_embedding(points[..., YX].detach(), x.shape[-1] // 2).to(x.dtype)
        return AlignedQueries(
            content * self._gate(self.content_gate, x),
            position * self._gate(self.position_gate, x),
            points,
            scales.unflatten(-1, (self.num_heads, self.num_scales)),
        )

    def _gate(self, gate: nn.Module, x: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, heads, C) in [0, 1]."""
        opened: Tensor = gate(x).sigmoid()
        return opened.unflatten(-1, (self.num_heads, -1))


def read_regions(memory: Memory, reference: Tensor) -> Tensor:
    """RoIAlign (arXiv:1703.06870, section 3) of boxes (B, Q, 4), (B, Q, C, 7, 7).

    In the precision of the boxes, which may lie in padding or outside the map; there it is zero.
    """
    only_shape(memory.grid)
    boxes = in_cells(cxcywh_to_xyxy(reference.detach()), memory.grid)
    (tokens,) = memory.maps()
    images = torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device)
    images = images[:, None, None].expand(-1, boxes.shape[1], 1)
    regions = torch.cat((images, boxes), -1).flatten(0, 1)
    regions = roi_align(tokens.to(boxes.dtype), regions, CELLS, 1.0, 0, aligned=True)
    return regions.unflatten(0, boxes.shape[:2])


def read_points(regions: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of regions (B, Q, C, h, w) at points (B, Q, n, 2), (B, Q, n, C).

    A region extends from -1 to 1; around it there are zeros.
    """
    read = F.grid_sample(regions.flatten(0, 1), points.flatten(0, 1)[:, None], align_corners=False)
    return read[:, :, 0].mT.unflatten(0, regions.shape[:2])


def in_cells(places: Tensor, grid: TokenGrid) -> Tensor:
    """Places (B, ..., 2 or 4) in fractions of the unpadded image, in cells of a grid's one map."""
    height, width = only_shape(grid)
    ratios = grid.valid_ratios[:, 0].view(-1, *[1] * (places.dim() - 1), 2)
    x, y = places.unflatten(-1, (-1, 2)).unbind(-1)
    x, y = x * width * ratios[..., 0], y * height * ratios[..., 1]
    return torch.stack((x, y), -1).flatten(-2)


def only_shape(grid: TokenGrid) -> tuple[int, int]:
    """(height, width) of a grid's one map."""
    if len(grid.level_shapes) != 1:
        raise ConfigError(
            "SAM-DETR's cross-attention reads one map in every layer, the memory has "
            f"{len(grid.level_shapes)} levels: set model.decoder.levels to the one of every layer"
        )
    return grid.level_shapes[0]
