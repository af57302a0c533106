"""FCOS: places near an object's centre learn it on the level of its size (arXiv:1904.01355)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import ConfigError
from ..structures import Targets
from .anchors import AnchorGrid, Anchors, Distances
from .assigned import AnchorAssigner, Assigned, sides
from .dense import DenseHead, DenseLosses
from .pyramid import Pyramid
from .selection import Selection

SIZE = 8.0  # of the anchors, in strides


class CenterAssigner(AnchorAssigner):
    """Of every place the smallest object, of equal ones the first, that it lies in and fits.

    It has to be near the object's centre, less than ``radius`` strides in both directions, and the
    farthest side is from 4 to 8 strides away (arXiv:1904.01355, section 3.2: 64 to 128 pixels on
    the level of stride 16), on the finest level also less and on the coarsest also more. Places
    outside the image are ignored.
    """

    def __init__(self, radius: float = 1.5):
        if radius <= 0:
            raise ConfigError(f"FCOS' places are near an object's centre, got radius={radius}")
        self.radius = radius

    def __call__(
        self, pyramid: Pyramid, anchors: Anchors, objects: Tensor, targets: Targets
    ) -> Assigned:
        owner = targets.labels.new_full(anchors.inside.shape, objects.shape[1])
        points = anchors.boxes[:, :2]
        strides = anchors.boxes[:, 2] / SIZE
        least, most = 4 * strides, 8 * strides
        least[: anchors.level_sizes[0]] = 0
        most[-anchors.level_sizes[-1] :] = float("inf")
        for b, count in enumerate(targets.counts):  # all at once would take much memory
            if count:
                boxes = objects[b, :count, None]
                distances = sides(points, boxes)
                farthest = distances.amax(-1)
                off = (points - boxes[..., :2]).abs().amax(-1)
                fits = (distances.amin(-1) > 0) & (off < self.radius * strides)
                fits &= (farthest >= least) & (farthest <= most) & anchors.inside[b]
                area, index = (boxes[..., 2] * boxes[..., 3]).where(fits, float("inf")).min(0)
                owner[b] = index.where(area.isfinite(), owner[b])
        return Assigned(owner, ~anchors.inside)


class FCOSHead(DenseHead):
    """FCOS (arXiv:1904.01355) as an auxiliary head of Co-DETR (arXiv:2211.12860, table 1).

    Its boxes for the decoder are squares of eight strides at the middle of each cell. Distances to
    the sides are predicted in strides, their logarithms with a factor a level. Boxes count by their
    centerness, which is predicted by the box tower. Co-DETR has released none: towers and
    normalisers are those of its ATSS head.

    Args:
        embed_dim: channels of the pyramid's maps.
        num_levels: of the pyramid: those of its sources, which are added up.
        weight: multiplies all losses; 12 are Co-DETR's lambda2 of 2 for each of 6 decoder layers.
        class_weight, box_weight, centerness_weight: of the focal loss, of the GIoU loss and of the
            binary cross entropy.
        radius: see `CenterAssigner`.
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
        box_weight: float = 1.0,
        centerness_weight: float = 1.0,
        radius: float = 1.5,
        num_convs: int = 1,
        selection: Selection | None = None,
    ):
        super().__init__(
            embed_dim,
            num_classes,
            num_levels,
            weight,
            grid=AnchorGrid(sizes=(SIZE,), offset=0.5),
            assigner=CenterAssigner(radius),
            coder=Distances(SIZE),
            losses=DenseLosses(class_weight, box_weight, centerness_weight),
            num_convs=num_convs,
            selection=selection,
        )
