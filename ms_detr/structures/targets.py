"""The objects of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError


@dataclass(frozen=True)
class Step:
    """The whole batch of a training step, of which images that are seen at a time may be a part.

    Losses are divided by what is counted here, so that parts add up to the whole, whichever
    processes have them.

    Attributes:
        objects: of all processes.
        own: objects of this process.
        most: objects of the image, in any process, that has most of them.
        images: of this process.
        processes: how many there are.
        done: share of the training's iterations that lie behind it, from 0 to 1.
    """

    objects: int
    own: int
    most: int
    images: int
    processes: int = 1
    done: float = 0.0


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded; never written to.

    Attributes:
        labels: (B, G) int64, 0 in padding.
        boxes: (B, G, 4); the whole image in padding, so that arithmetic stays finite.
        valid: (B, G) bool, False in padding.
        counts: objects of every image, known on the host.
        masks: (N, H, W) bool over the padded images, or None; the objects of all images one after
            the other, without padding among them.
        step: the batch that these images are a part of; None: they are all that this process has.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor
    counts: tuple[int, ...]
    masks: Tensor | None = None
    step: Step | None = None

    @property
    def most(self) -> int:
        """Objects of the fullest image of the step."""
        return max(self.counts) if self.step is None else self.step.most

    @property
    def own(self) -> int:
        """Objects of this process in the step."""
        return sum(self.counts) if self.step is None else self.step.own

    @property
    def share(self) -> float:
        """How many of this process's images of the step these are."""
        return 1.0 if self.step is None else len(self.counts) / self.step.images

    @classmethod
    def from_list(cls, images: Sequence[Mapping[str, Tensor]]) -> Targets:
        """Batch per-image ``{"labels": (n,), "boxes": (n, 4)}``, with ``"masks"`` (n, H, W) or not.

        Raises:
            ValueError: for an empty batch, or labels, boxes and masks that do not fit each other.
        """
        if not images:
            raise ValueError("targets of at least one image are needed, got an empty list")
        counts = tuple(len(image["labels"]) for image in images)
        for index, (image, count) in enumerate(zip(images, counts, strict=True)):
            if tuple(image["boxes"].shape) != (count, 4):
                raise ValueError(
                    f"targets of image {index}: {count} labels need boxes of shape ({count}, 4), "
                    f"got {tuple(image['boxes'].shape)}"
                )
        boxes = images[0]["boxes"]
        size = (len(images), max(counts))
        labels = torch.zeros(size, dtype=torch.int64, device=boxes.device)
        padded = boxes.new_tensor((0.5, 0.5, 1.0, 1.0)).repeat(*size, 1)
        for row, (image, count) in enumerate(zip(images, counts, strict=True)):
            labels[row, :count] = image["labels"]
            padded[row, :count] = image["boxes"]
        valid = torch.arange(size[1])[None] < torch.tensor(counts)[:, None]
        valid = valid.to(boxes.device, non_blocking=True)
        return cls(labels, padded, valid, counts, _join_masks(images, counts))

    def to(self, device: torch.device) -> Targets:
        """The same targets on a device; padded on the host first, they need a copy a field."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            labels=move(self.labels),
            boxes=move(self.boxes),
            valid=move(self.valid),
            masks=None if self.masks is None else move(self.masks),
        )

    def masks_of(self, image: int) -> Tensor:
        """Masks (n, H, W) of an image's objects.

        Raises:
            ConfigError: if the targets have none.
        """
        if self.masks is None:
            raise ConfigError(
                "a term supervises masks, but the targets have none: set dataloader.masks=true; "
                "queries that learn targets of their own, as PositiveQueries, have none"
            )
        first = sum(self.counts[:image])
        return self.masks[first : first + self.counts[image]]


def _join_masks(images: Sequence[Mapping[str, Tensor]], counts: Sequence[int]) -> Tensor | None:
    given = [image["masks"] for image in images if "masks" in image]
    if not given:
        return None
    shapes = [tuple(masks.shape) for masks in given]
    expected = [(count, *given[0].shape[1:]) for count in counts]
    if shapes != expected:
        raise ValueError(
            f"targets: either no image has masks or every one, all of one size (n, H, W) with n "
            f"labels; the images have {list(counts)} labels and masks of {shapes}"
        )
    return torch.cat(given)
