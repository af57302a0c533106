"""One image with its objects, as a model takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..meta_arch import GeneralizedDETR
from ..structures import Targets, shown_size


@dataclass(frozen=True)
class Sample:
    """One image: a batch of its own, so that no neighbour pads it.

    Attributes:
        pixels: (1, 3, H, W), normalised.
        padding_mask: (1, H, W), True in padding.
        targets: its objects.
        boxes: theirs as (x1, y1, x2, y2) in pixels, (n, 4).
        masks: theirs, (n, h, w) bool, or None where they were not read.
        whole: (H, W), the pixels that are no padding.
        size: (h, w) of them that are the file's, at the upper left; others count as image.
    """

    pixels: Tensor
    padding_mask: Tensor
    targets: Targets
    boxes: Tensor
    masks: Tensor | None
    whole: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, model: GeneralizedDETR, inputs: Mapping[str, Any]) -> Sample:
        """What `ms_detr.data.DetrMapper` hands out in training, for a model."""
        pixels, padding_mask = model.preprocess([inputs])
        targets = model.targets([inputs], (pixels.shape[-2], pixels.shape[-1]))
        instances = inputs["instances"]
        masks = instances.gt_masks.tensor if instances.has("gt_masks") else None
        height, width = inputs["image"].shape[-2:]
        boxes, size = instances.gt_boxes.tensor, shown_size(inputs)
        return cls(pixels, padding_mask, targets, boxes, masks, (height, width), size)

    @property
    def classes(self) -> Tensor:
        """The classes that are in the image, each once, in order, (n,) int64."""
        return self.targets.labels[self.targets.valid].unique()

    @property
    def largest(self) -> int:
        """The object with the largest box, of at least one."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).unbind(1)
        return int((width * height).argmax())

    def shown(self, values: Tensor) -> Tensor:
        """What of a map (H, W) lies in the file's image, (h, w)."""
        return values[: self.size[0], : self.size[1]]

    def foreground(self, by_masks: bool = False) -> Tensor:
        """Which pixels lie in an object, (h, w) bool: with their centre in a box, or in a mask.

        Raises:
            DataError: masks are wanted and were not read.
        """
        if by_masks:
            if self.masks is None:
                raise DataError(
                    "the images' objects have no masks: set dataloader.masks=true, and take a "
                    "dataset whose annotations have them"
                )
            return self.shown(self.masks.cpu().any(0))
        found = torch.zeros(self.size, dtype=torch.bool)
        for x1, y1, x2, y2 in (self.boxes.cpu().double() - 0.5).ceil().long().tolist():
            found[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
        return found
