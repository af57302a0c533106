"""Backbones, composed of Detectron2's parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock


def resnet50(
    norm: str = "FrozenBN",
    freeze_at: int = 2,
    out_features: Sequence[str] = ("res3", "res4", "res5"),
) -> ResNet:
    """ResNet-50 in torchvision's layout (stride in the 3x3); res2 to res5 have strides 4 to 32."""
    stages = ResNet.make_default_stages(50, stride_in_1x1=False, norm=norm)
    return ResNet(
        BasicStem(3, 64, norm), stages, out_features=list(out_features), freeze_at=freeze_at
    )


def small_resnet(
    widths: Sequence[int] = (32, 64, 96, 160),
    blocks: int = 2,
    norm: str = "BN",
    out_features: Sequence[str] = ("res2", "res3", "res4"),
) -> ResNet:
    """A ResNet of basic blocks that trains from scratch on a CPU.

    The stem and res2 to res4 have strides 4 to 32.

    Args:
        widths: channels of the stem and of the three stages.
        blocks: basic blocks a stage.

    Raises:
        ValueError: unless there are four widths, each unlike its neighbour (Detectron2's block
            would not downsample), and at least one block.
    """
    if (
        len(widths) != 4
        or blocks < 1
        or any(before == after for before, after in itertools.pairwise(widths))
    ):
        raise ValueError(
            "model.backbone needs four widths that change at every stage and at least one block, "
            f"got widths={list(widths)} blocks={blocks}"
        )
    stages = [
        ResNet.make_stage(
            BasicBlock,
            num_blocks=blocks,
            stride_per_block=[2] + [1] * (blocks - 1),
            in_channels=before,
            out_channels=after,
            norm=norm,
        )
        for before, after in itertools.pairwise(widths)
    ]
    # Detectron2 counts the stages from res2.
    return ResNet(BasicStem(3, widths[0], norm), stages, out_features=list(out_features))
