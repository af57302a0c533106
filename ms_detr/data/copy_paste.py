"""Objects of one training image are pasted onto another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances

from ..errors import ConfigError


class CopyPaste:
    """Simple copy-paste (Ghiasi et al., arXiv:2012.07177, section 3), without blending.

    A random part of the objects of another image, with its own augmentation, is pasted where it
    lies: how many is drawn evenly from none to all, up to the limit, and then which. What they
    cover of the image's own objects is cut from their masks; boxes are those of the masks. An
    object that is hidden too much is left out; by how much the paper leaves open: as mmdetection
    documents it, where a side of its box moves by more than ``max_shift`` and no more than
    ``min_pixels`` are left. Nor does an object stay without a pixel.

    Args:
        max_objects: so many are pasted at most.
        max_shift: in pixels, see above.
        min_pixels: see above.
        masks: the results have masks, and not boxes alone.
    """

    def __init__(
        self,
        max_objects: int = 100,
        max_shift: float = 10.0,
        min_pixels: int = 300,
        masks: bool = True,
    ):
        for name, value in (("max_objects", max_objects), ("max_shift", max_shift)):
            if not value >= 0:
                raise ConfigError(f"copy_paste.{name} must be at least 0, got {value}")
        self.max_objects = max_objects
        self.max_shift = max_shift
        self.min_pixels = min_pixels
        self.masks = masks

    def __call__(self, x: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        """Paste objects onto an image; both stay as they are.

        Args:
            x, other: model inputs with masks of one size, see `ms_detr.data.DetrMapper`.

        Returns:
            ``x`` with another image and instances: first those that are left, then the pasted.

        Raises:
            ConfigError: they have no masks, or are of two sizes.
        """
        objects, pasted = _objects(x), _chosen(_objects(other), self.max_objects)
        shapes = x["image"].shape, other["image"].shape
        if shapes[0] != shapes[1]:
            sizes = " and ".join(f"{width} x {height}" for _, height, width in shapes)
            raise ConfigError(
                f"copy_paste needs images of one size, these are {sizes}: take augmentations that "
                "crop and pad, such as ms_detr.data.lsj_augmentations"
            )
        cover = pasted.gt_masks.tensor.any(0)
        left = self._left(objects, cover)
        pasted.gt_boxes = pasted.gt_masks.get_bounding_boxes()
        instances = Instances.cat([left, pasted])
        if not self.masks:
            instances.remove("gt_masks")
        image = torch.where(cover, other["image"], x["image"])
        return x | {"image": image, "instances": instances}

    def _left(self, objects: Instances, cover: torch.Tensor) -> Instances:
        """What is left of objects under pixels (H, W) that cover them."""
        masks = BitMasks(objects.gt_masks.tensor & ~cover)
        boxes, pixels = masks.get_bounding_boxes(), masks.tensor.sum((1, 2))
        shift = (boxes.tensor - objects.gt_masks.get_bounding_boxes().tensor).abs().amax(1)
        enough = (shift <= self.max_shift) | (pixels > self.min_pixels)
        left = Instances(
            objects.image_size, gt_boxes=boxes, gt_classes=objects.gt_classes, gt_masks=masks
        )
        return left[enough & (pixels > 0)]


def _objects(x: dict[str, Any]) -> Instances:
    instances = x.get("instances")
    if instances is None or not instances.has("gt_masks"):
        raise ConfigError(
            "copy_paste needs masks: set dataloader.train.mapper.masks=true and "
            "dataloader.train.dataset.masks=true, or dataloader.train.copy_paste=null"
        )
    return instances


def _chosen(objects: Instances, limit: int) -> Instances:
    """Draw some of the objects with numpy's generator, which the loader seeds."""
    count = np.random.randint(min(len(objects), limit) + 1)
    return objects[torch.from_numpy(np.random.permutation(len(objects))[:count])]
