"""ATSS: anchors are chosen by statistics of those around each object (arXiv:1912.02424)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..layers.boxes import box_iou
from ..structures import Assignment, Targets
from .anchors import AnchorGrid, Anchors, Deltas
from .assigned import AnchorAssigner, Assigned, depth
from .dense import DenseHead, DenseLosses
from .pyramid import Pyramid
from .selection import Selection


class ATSSAssigner(AnchorAssigner):
    """Adaptive training sample selection (arXiv:1912.02424, algorithm 1).

    An object's candidates are, of every level, the anchors inside the image whose centres are
    nearest to its own; of equally near ones the upper ones and then those to the left. It gets
    those whose IoU with it is at least the mean and the unbiased standard deviation of all
    together, and whose centres are in it. An anchor that several objects get goes to the one of
    the highest IoU, of equal ones the first. Anchors outside the image are ignored.

    Args:
        top_k: candidates of a level.
    """

    MARGIN = 0.01  # pixels that a centre is inside its object at least

    def __init__(self, top_k: int = 9):
        if top_k < 1:
            raise ConfigError(f"ATSS takes at least 1 candidate of a level, got top_k={top_k}")
        self.top_k = top_k

    def __call__(
        self, pyramid: Pyramid, anchors: Anchors, objects: Tensor, targets: Targets
    ) -> Assigned:
        first = 0
        levels = []
        for level, stride in zip(pyramid.maps, pyramid.strides, strict=True):
            index, found = self._nearest(level, stride, pyramid.sizes, objects[..., :2])
            levels.append((index + first, found))
            first += level[0, 0].numel()
        index, found = (torch.cat(parts, 2) for parts in zip(*levels, strict=True))
        boxes = anchors.boxes[index]
        iou = box_iou(boxes, objects[:, :, None])
        inside = depth(boxes[..., :2], objects[:, :, None]) > self.MARGIN
        positive = found & inside & (iou >= _threshold(iou, found)) & targets.valid[..., None]
        chosen = Assignment(index[None], positive[None], targets.labels, score=iou[None])
        return Assigned(chosen.owners(len(anchors.boxes))[0], ~anchors.inside)

    def _nearest(
        self, level: Tensor, stride: int, sizes: Tensor, centers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cells of a level (B, G, top_k), and which are there: a small image may have fewer.

        The nearest cells are in the nearest columns and rows, so only those are looked at.
        """
        height, width = level.shape[-2:]
        # Of columns on one side of a centre, and of rows; a border moves them to the other.
        reach = (self.top_k + 1) // 2
        columns, rows = (sizes / stride).ceil().long().unbind(-1)
        limits = torch.stack((columns.clamp(max=width), rows.clamp(max=height)), -1)
        start = (centers / stride).floor().long() - reach
        start = start.minimum(limits[:, None] - 2 * reach - 1).clamp(min=0)
        cells = start[..., None] + torch.arange(2 * reach + 1, device=level.device)  # (B, G, 2, W)
        distance = (cells * stride - centers[..., None]) ** 2
        distance = distance.where(cells < limits[:, None, :, None], float("inf"))
        (across, down), (columns, rows) = distance.unbind(2), cells.unbind(2)
        # Stable, for which of equally near ones it is must not hang on the device.
        together = (down[..., None] + across[..., None, :]).flatten(2)
        together, order = together.sort(dim=-1, stable=True)
        index = (rows[..., None] * width + columns[..., None, :]).flatten(2).gather(2, order)
        found = together[..., : self.top_k].isfinite()
        return index[..., : self.top_k].where(found, 0), found


def _threshold(iou: Tensor, found: Tensor) -> Tensor:
    """Mean and standard deviation of the IoU (B, G, T) with those that were found, (B, G, 1).

    NaN, which no IoU reaches, of a single one.
    """
    count = found.sum(-1, keepdim=True)
    mean = (iou * found).sum(-1, keepdim=True) / count
    variance = ((iou - mean) ** 2 * found).sum(-1, keepdim=True) / (count - 1)
    return mean + variance.sqrt()


class ATSSHead(DenseHead):
    """ATSS (arXiv:1912.02424) as an auxiliary head of Co-DETR (arXiv:2211.12860, table 1).

    One square anchor a place, of eight strides. The box loss counts each anchor by its
    centerness, and its scores at inference are multiplied by what it predicts of that.

    Args:
        embed_dim: channels of the pyramid's maps.
        num_levels: of the pyramid: those of its sources, which are added up.
        weight: multiplies all losses; 12 are Co-DETR's lambda2 of 2 for each of 6 decoder layers.
        class_weight, box_weight, centerness_weight: of the focal loss, of the GIoU loss and of the
            binary cross entropy.
        top_k: see `ATSSAssigner`.
        num_convs: convolutions of each tower; Co-DETR has 1 in the place of 4.
        selection: what the head detects by itself.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        num_levels: Sequence[int],
        weight: float = 12.0,
        class_weight: float = 1.0,
        box_weight: float = 2.0,
        centerness_weight: float = 1.0,
        top_k: int = 9,
        num_convs: int = 1,
        selection: Selection | None = None,
    ):
        super().__init__(
            embed_dim,
            num_classes,
            num_levels,
            weight,
            grid=AnchorGrid(sizes=(8.0,)),
            assigner=ATSSAssigner(top_k),
            coder=Deltas((10.0, 5.0)),
            losses=DenseLosses(class_weight, box_weight, centerness_weight),
            num_convs=num_convs,
            selection=selection,
        )
