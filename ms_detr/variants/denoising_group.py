"""What all denoising has in common: queries made of noised objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..layers.boxes import inverse_sigmoid
from ..modeling import QueryGroup
from ..structures import (
    NO_CANDIDATES,
    Assignment,
    Candidates,
    GroupQueries,
    Queries,
    Rows,
    Targets,
)


class DenoisingGroup(QueryGroup):
    """Noised copies of all objects, each copy a block that sees the primary queries.

    Noise is drawn by the CPU's generator, whose state a checkpoint keeps: a resumed run draws the
    same, on every device. All images have the queries of the fullest of the step; those that stand
    for no object have no content and lie in the middle.

    Args:
        label_dim: channels of the content that encode the label.
        label_noise: share of the labels that become a random one, perhaps the same.
        box_noise: how far boxes are moved, in shares of their size.
        epsilon: of the boxes' logits, as the decoder's; keeps coordinates off 0 and 1.

    Attributes:
        negatives: each copy has its positive queries and then as many negative ones; what isn't
            positive, empty queries included, learns the background. Otherwise those cost nothing.
    """

    needs_boxes = True
    negatives = False

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        label_dim: int,
        label_noise: float,
        box_noise: float,
        epsilon: float,
    ):
        super().__init__()
        if not (0 <= label_noise <= 1 and box_noise >= 0):
            raise ConfigError(
                "denoising needs label_noise from 0 to 1 and box_noise of at least 0, "
                f"got {label_noise} and {box_noise}"
            )
        self.embed_dim = embed_dim
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.epsilon = epsilon
        self.num_classes = num_classes
        # As published, with one row more, which stands for no class and is never drawn.
        self.embedding = nn.Embedding(num_classes + 1, label_dim)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.embed_dim, "num_classes": self.num_classes}

    def rows(self) -> dict[str, Rows]:
        """See `ms_detr.structures.HasRows`."""
        return {"embedding.weight": Rows.CLASSES}

    @abstractmethod
    def num_copies(self, objects: int) -> int:
        """How many copies, if the fullest image of the step has so many objects."""

    @abstractmethod
    def move(self, boxes: Tensor) -> Tensor:
        """Boxes (..., parts, G, 4) with noise; they are clamped to the image afterwards.

        That is done in logits, as published: a coordinate near 0 or 1 becomes one that the decoder
        can refine.
        """

    def content(self, labels: Tensor) -> Tensor:
        """Labels (...) -> (..., C)."""
        return self.embedding(labels)

    def forward(
        self,
        primary: Queries,
        extra: Queries,
        targets: Targets,
        candidates: Mapping[str, Candidates] = NO_CANDIDATES,
    ) -> GroupQueries:
        batch, objects = targets.labels.shape
        size, copies, parts = targets.most, self.num_copies(targets.most), 1 + self.negatives
        shape = (batch, copies, parts, size)
        lacking = size - objects
        labels, boxes = (
            F.pad(targets.labels, (0, lacking)),
            F.pad(targets.boxes, (0, 0, 0, lacking)),
        )
        empty = ~F.pad(targets.valid, (0, lacking))[:, None, None].expand(shape)
        labels = self.flip(labels[:, None, None].expand(shape))
        content = self.content(labels).masked_fill(empty[..., None], 0.0)
        boxes = self.move(boxes[:, None, None].expand(*shape, 4))
        boxes = inverse_sigmoid(boxes, self.epsilon).sigmoid()
        boxes = boxes.masked_fill(empty[..., None], 0.5)
        device = labels.device
        first = torch.arange(copies, device=device) * parts * size
        query = torch.arange(objects, device=device)[:, None] + first
        return GroupQueries(
            primary.at(content.flatten(1, 3), boxes.flatten(1, 3)),
            blocks=(parts * size,) * copies,
            sees_primary=True,
            assignment=Assignment(
                query.expand(1, batch, -1, -1),
                targets.valid[None, :, :, None].expand(1, -1, -1, copies),
                targets.labels,
                copies=copies,
            ),
            ignored=None if self.negatives else empty.flatten(1),
        )

    def flip(self, labels: Tensor) -> Tensor:
        """Labels with noise."""
        noise = torch.randint(self.num_classes, labels.shape)
        kept = torch.rand(labels.shape) >= self.label_noise
        return labels.where(kept.to(labels.device), noise.to(labels.device))


def signed_noise(boxes: Tensor) -> Tensor:
    """Uniform from -1 to 1, of the boxes' shape."""
    return (2 * torch.rand(boxes.shape) - 1).to(boxes)
