"""What is wrong with a detector's inputs, in words; and their masks."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import ConfigError

# Norms that a single number is too little for, and what helps.
BATCH_NORM = (
    "a map of the backbone has one cell, of which BatchNorm",
    "choose a backbone whose BatchNorm is frozen",
)
GROUP_NORM = (
    "a coarse map has one cell, and each group of channels but one, of which GroupNorm",
    "set model.embed_dim to 64 or more",
)


def check_images(batched_inputs: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError unless all images are what the normalisation is made for."""
    for x in batched_inputs:
        image = x.get("image") if isinstance(x, Mapping) else None
        found = type(x if image is None else image).__name__
        if isinstance(image, Tensor):
            right = image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3
            if right and image.numel() > 0:
                continue
            found = f"{image.dtype} {tuple(image.shape)}"
        whose = f"{name_of(x)}: " if isinstance(x, Mapping) else ""
        raise ConfigError(
            f"{whose}the model takes a list of dicts whose 'image' is a uint8 tensor (3, H, W) of "
            f"values from 0 to 255, got {found}; ms_detr.engine.predict takes files, PIL images "
            "and arrays"
        )


def padded_masks(x: Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    """Masks of an image's objects, (n, H, W) bool."""
    instances = x["instances"]
    if not instances.has("gt_masks"):
        raise ConfigError(
            f"{name_of(x)} has no masks to learn: set dataloader.masks=true, and take a dataset "
            "whose annotations have them"
        )
    masks = instances.gt_masks.tensor
    if masks.shape[1:] != x["image"].shape[1:]:
        raise ConfigError(
            f"{name_of(x)} is {tuple(x['image'].shape[1:])} pixels, its masks are "
            f"{tuple(masks.shape[1:])}"
        )
    return F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))


@contextmanager
def naming_single_cells(batched_inputs: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Explain torch's error about a norm of one number: of one image a map has a single cell."""
    try:
        yield
    except ValueError as error:
        if len(batched_inputs) > 1 or "more than 1 value per channel" not in str(error):
            raise
        (x,) = batched_inputs
        _, height, width = x["image"].shape
        norm, remedy = GROUP_NORM if _is_of_groups(error) else BATCH_NORM
        raise ConfigError(
            f"{name_of(x)} is {width} x {height} pixels after augmentation: {norm} can't take a "
            "variance. Enlarge small images (dataloader.train.mapper.augmentations), train with at "
            f"least two images a process (dataloader.train.total_batch_size), or {remedy}"
        ) from error


def _is_of_groups(error: ValueError) -> bool:
    """Whether torch's GroupNorm has raised it, whose words are BatchNorm's."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is F.group_norm.__code__ for frame, _ in frames)


def name_of(x: Mapping[str, Any]) -> str:
    """Name an input for a message."""
    return f"image {x.get('file_name', x.get('image_id', 'without name'))}"
