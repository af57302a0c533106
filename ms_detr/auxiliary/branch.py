"""Detection heads on the encoder's maps, in training alone (Co-DETR, arXiv:2211.12860)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ..errors import ConfigError
from ..modeling import Detections
from ..structures import Candidates, Memory, Targets, unpadded_sizes
from .pyramid import Pyramid


@dataclass(frozen=True)
class Found:
    """What a head makes of a batch.

    Attributes:
        losses: scalars by name, ``{part}/{loss}``, weighted; `CountedLosses` where some of them
            are divided by a number that the processes shall have in common.
        candidates: for further queries of the decoder.
    """

    losses: Mapping[str, Tensor]
    candidates: Candidates


class AuxiliaryHead(nn.Module, ABC):
    """A detector of its own on the maps of a pyramid, which assigns objects one-to-many.

    Args:
        weight: multiplies all its losses, at least 0.
    """

    def __init__(self, weight: float):
        super().__init__()
        if weight < 0:
            raise ConfigError(f"an auxiliary head's weight can't be negative, got {weight}")
        self.weight = weight

    def check_levels(self, pyramid: Pyramid, expected: int) -> None:
        """Raise ConfigError if a head that was built for so many levels sees others."""
        if len(pyramid.maps) != expected:
            raise ConfigError(
                f"a {type(self).__name__} was built for {expected} levels, encoder and "
                f"adapter make {len(pyramid.maps)}: link its num_levels with "
                "('${model.neck.num_levels}', '${model.auxiliary.adapter.num_levels}')"
            )

    @abstractmethod
    def forward(self, name: str, pyramid: Pyramid, targets: Targets) -> Found:
        """Compare with the objects.

        What is assigned, and losses, are computed without autocast (`in_full_precision`). Losses
        are divided by what this process has, without a collective, and multiplied by
        ``targets.share``, so that a step's parts weigh what they are of it.

        Args:
            name: of the head, under which its losses are logged: ``{name}_head/loss_class``.
        """

    @abstractmethod
    def detect(self, pyramid: Pyramid) -> list[Detections]:
        """What the head detects by itself, after its own NMS: of every image a batch of one."""

    def class_score(self, pyramid: Pyramid, labels: Tensor) -> Tensor:
        """What ``ms-detr analyze conflict`` differentiates by the maps, of one image, a scalar.

        The largest logit of every class, over all places that the head looks at, added up.

        Args:
            labels: (n,) int64, the classes that are in the image, each once.

        Raises:
            ConfigError: heads of this kind don't tell.
        """
        raise ConfigError(
            f"{type(self).__name__} tells no class score, by which heads are compared: give it a "
            "method class_score"
        )


class AuxiliaryHeads(nn.ModuleDict):
    """Auxiliary heads by name; None drops one."""

    def __init__(self, **heads: AuxiliaryHead | None):
        super().__init__({name: head for name, head in heads.items() if head is not None})


class Adapter(nn.Module):
    """Adds coarser levels to the encoder's maps (arXiv:2211.12860, section 3.2).

    Args:
        num_levels: how many, each by a convolution of stride 2 and a GroupNorm of 32 groups.
    """

    def __init__(self, embed_dim: int, num_levels: int = 1):
        super().__init__()
        if embed_dim % 32:
            raise ConfigError(
                f"the adapter normalises 32 groups of channels, into which model.embed_dim="
                f"{embed_dim} can't be divided"
            )
        self.embed_dim = embed_dim
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(embed_dim, embed_dim, kernel_size=3, stride=2, padding=1),
                nn.GroupNorm(32, embed_dim),
            )
            for _ in range(num_levels)
        )

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"embed_dim": self.embed_dim}

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C, h, w) from fine to coarse, and then the coarser ones."""
        found = list(maps)
        for level in self.levels:
            found.append(level(found[-1]))
        return tuple(found)


class Auxiliary(nn.Module):
    """Heads that train the encoder besides the decoder, which inference doesn't need.

    Args:
        adapter: makes the heads' maps of the encoder's.
        heads: by name.
    """

    def __init__(self, adapter: Adapter, heads: AuxiliaryHeads):
        super().__init__()
        if not heads:
            raise ConfigError(
                "model.auxiliary.heads is empty: add a head, or set model.auxiliary=null"
            )
        self.adapter = adapter
        self.heads = heads

    def forward(
        self, memory: Memory, strides: Sequence[int], padding_mask: Tensor, targets: Targets
    ) -> dict[str, Found]:
        """What every head makes of the batch, by the head's name; arguments as `pyramid` has."""
        pyramid = self.pyramid(memory, strides, padding_mask)
        return {
            name: cast(AuxiliaryHead, head)(name, pyramid, targets)
            for name, head in self.heads.items()
        }

    def detect(
        self, name: str, memory: Memory, strides: Sequence[int], padding_mask: Tensor
    ) -> list[Detections]:
        """What one head detects by itself; see `AuxiliaryHead.detect`."""
        head = cast(AuxiliaryHead, self.heads[name])
        return head.detect(self.pyramid(memory, strides, padding_mask))

    def pyramid(self, memory: Memory, strides: Sequence[int], padding_mask: Tensor) -> Pyramid:
        """What the heads look at.

        Args:
            strides: of the backbone's maps that the neck takes, in pixels; further levels of the
                memory have twice the stride each.
            padding_mask: (B, H, W) of the images, True in padding.
        """
        maps = self.adapter([x.contiguous() for x in memory.maps()])
        sizes = unpadded_sizes(padding_mask, memory.grid.valid_ratios.dtype)
        further = range(1, len(maps) - len(strides) + 1)
        return Pyramid(maps, (*strides, *(strides[-1] * 2**k for k in further)), sizes)
