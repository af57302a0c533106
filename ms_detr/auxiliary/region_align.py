"""What regions look at: RoIAlign (arXiv:1703.06870, section 3) on the level that fits each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .pyramid import Pyramid

CELLS = 14  # the finest level sees regions of less than twice as many of its cells, squared


class RegionAlign:
    """Reads maps at regions.

    As Detectron2's `ROIPooler`, but for a number inside the logarithm of the level, by which
    Co-DETR's code moves regions that are just about too small for a level to it; and whatever the
    finest level's stride, it sees regions as large in its cells.

    Args:
        size: cells of a region, across and down.
    """

    def __init__(self, size: int = 7):
        self.size = size

    def __call__(self, pyramid: Pyramid, regions: Sequence[Tensor]) -> Tensor:
        """Read all levels but the coarsest, (R, C, size, size), in the precision of boxes.

        Args:
            regions: (n, 4) of every image as (x1, y1, x2, y2) in pixels; R is the sum of n.
        """
        boxes = torch.cat(list(regions))
        images = [boxes.new_full((len(own), 1), image) for image, own in enumerate(regions)]
        located = torch.cat((torch.cat(images), boxes), 1)
        owners = self.levels(pyramid, boxes)
        found, order = [], []
        for level, stride in enumerate(pyramid.strides[:-1]):
            index = (owners == level).nonzero()[:, 0]
            maps = pyramid.maps[level].to(boxes.dtype)
            # Without regions too: so every level has a gradient.
            found.append(roi_align(maps, located[index], self.size, 1 / stride, 0, aligned=True))
            order.append(index)
        return torch.cat(found)[torch.cat(order).argsort()]

    def levels(self, pyramid: Pyramid, boxes: Tensor) -> Tensor:
        """The level of every region (R,) (arXiv:1612.03144, Eq. 1)."""
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        octaves = ((width * height).sqrt() / (CELLS * pyramid.strides[0]) + 1e-6).log2()
        return octaves.floor().clamp(0, len(pyramid.strides) - 2).long()
