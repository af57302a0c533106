"""Backbones, composed of Detectron2's parts or taken from timm."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from detectron2.modeling.backbone import Backbone, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from omegaconf import OmegaConf
from torch import Tensor, nn

from .errors import ConfigError, MissingPackageError

RESNETS = (18, 34, 50, 101, 152)
MAPS = ("res3", "res4", "res5")


def resnet(
    depth: int = 50,
    norm: str = "FrozenBN",
    freeze_at: int = 2,
    out_features: Sequence[str] = MAPS,
    dilated: bool = False,
    stride_in_1x1: bool = False,
) -> ResNet:
    """A ResNet in torchvision's layout, with the stride in the 3x3.

    Args:
        depth: layers: 18, 34, 50, 101 or 152.
        norm: Detectron2's name of the norms, such as ``FrozenBN``, ``BN`` or ``GN``.
        out_features: the maps that the neck reads, of ``res2`` (stride 4) to ``res5`` (stride 32).
        freeze_at: 0 trains everything, 1 all but the stem, 2 freezes also what makes ``res2``, ...
        dilated: res5 has stride 16, its 3x3 convolutions behind the first are dilated by 2 (DC5).
        stride_in_1x1: the stride is in the first 1x1, as the weights of MSRA have it.
    """
    if depth not in RESNETS:
        raise ConfigError(f"model.backbone.depth must be one of {list(RESNETS)}, got {depth}")
    if dilated and depth < 50:
        raise ConfigError(f"model.backbone.dilated needs a depth of at least 50, got {depth}")
    if stride_in_1x1 and depth < 50:
        raise ConfigError(f"model.backbone.stride_in_1x1 needs a depth of at least 50, got {depth}")
    options = {} if depth < 50 else {"stride_in_1x1": stride_in_1x1}
    stages = ResNet.make_default_stages(depth, norm=norm, **options)
    if dilated:
        stages[-1] = ResNet.make_stage(
            BottleneckBlock,
            3,
            in_channels=1024,
            out_channels=2048,
            bottleneck_channels=512,
            stride_per_block=[1, 1, 1],
            dilation_per_block=[1, 2, 2],
            stride_in_1x1=False,
            norm=norm,
        )
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
        norm: Detectron2's name of the norms.
        out_features: the maps that the neck reads, of ``stem`` (stride 4) to ``res4`` (stride 32).

    Raises:
        ConfigError: unless there are four widths, each unlike its neighbour (Detectron2's block
            would not downsample), and at least one block.
    """
    if (
        len(widths) != 4
        or blocks < 1
        or any(before == after for before, after in itertools.pairwise(widths))
    ):
        raise ConfigError(
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


class TimmBackbone(Backbone):
    """Any feature extractor of timm; maps are named by stride: 4 is ``res2``, 32 is ``res5``.

    timm's Swin rolls a map before it pads it to whole windows, the published one after: both are
    the same where ``size_divisibility`` is a multiple of 32 windows.

    Args:
        name: one of ``timm.list_models()``.
        out_features: names of the maps that are handed out.
        pretrained: let timm load weights, which it downloads unless ``options`` name a file.
        freeze_at: as for :func:`resnet`, where timm's model is a sequence of stages.
        frozen_bn: BatchNorm, if there is any, keeps its statistics and is not trained.
        output_norm: LayerNorm over the channels of every map, as Swin's detectors have it.
        size_divisibility: images are padded to multiples of it; None takes the largest stride.
        options: of timm's model, such as ``dict(drop_path_rate=0.2)``.

    Raises:
        MissingPackageError: timm isn't installed.
        ConfigError: no such model or map, or stages that can't be told apart to be frozen.
    """

    def __init__(
        self,
        name: str,
        out_features: Sequence[str] = MAPS,
        pretrained: bool = False,
        freeze_at: int = 0,
        frozen_bn: bool = True,
        output_norm: bool = False,
        size_divisibility: int | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        timm = _import_timm()
        if not timm.is_model(name):
            nearest = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise ConfigError(f"timm has no model '{name}'; the nearest are {', '.join(nearest)}")
        # timm knows tuples and lists, not a config's.
        plain: Any = OmegaConf.to_container(OmegaConf.create(dict(options or {})), resolve=True)
        with torch.device("meta"):
            offered = timm.create_model(name, features_only=True, **plain).feature_info.info
        # Of several maps of one stride the last one counts.
        index = {_map_name(info["reduction"]): i for i, info in enumerate(offered)}
        if missing := set(out_features) - set(index):
            raise ConfigError(
                f"model.backbone.out_features wants {sorted(missing)}, timm's {name} makes "
                f"{list(index)}"
            )
        self._out_features = list(out_features)
        chosen = [index[key] for key in out_features]
        self._out_feature_channels = {k: offered[index[k]]["num_chs"] for k in out_features}
        self._out_feature_strides = {k: offered[index[k]]["reduction"] for k in out_features}
        self._size_divisibility = size_divisibility or max(self._out_feature_strides.values())
        self.body = timm.create_model(
            name, features_only=True, pretrained=pretrained, out_indices=chosen, **plain
        )
        freeze_norm = timm.layers.freeze_batch_norm_2d
        if freeze_at:
            ends = {key: offered[i]["module"] for key, i in index.items()}
            for name in _first_stages(self.body, ends, freeze_at):
                part = self.body.get_submodule(name).requires_grad_(False)
                self.body.set_submodule(name, freeze_norm(part))
        if frozen_bn:
            self.body = freeze_norm(self.body)
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        self.norms = nn.ModuleDict(
            {k: nn.LayerNorm(c) for k, c in self._out_feature_channels.items()}
            if output_norm
            else {}
        )

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (B, channels, h, w) by name, of images (B, 3, H, W)."""
        maps = dict(zip(self._out_features, self.body(images), strict=True))
        if not self.channels_last:
            maps = {name: x.permute(0, 2, 3, 1) for name, x in maps.items()}
        maps = {name: self.norms[name](x) if self.norms else x for name, x in maps.items()}
        return {name: x.permute(0, 3, 1, 2) for name, x in maps.items()}


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(
            f"this backbone needs timm ({error}); install it: python -m pip install timm"
        ) from None
    return timm


def _map_name(stride: int) -> str:
    """``res2`` for stride 4; a stride that is no power of two goes by itself."""
    exact = stride & (stride - 1) == 0
    return f"res{stride.bit_length() - 1}" if exact else f"stride{stride}"


def _first_stages(body: nn.Module, ends: Mapping[str, str], freeze_at: int) -> list[str]:
    """Names of a model's parts up to the stage; ``ends`` are the parts that make the maps."""
    end = ends.get(f"res{max(freeze_at, 2)}", "")
    parts = []
    for name, child in body.named_children():
        if end.startswith(f"{name}."):  # stages that are parts of a sequence
            parts += [f"{name}.{part}" for part, _ in child.named_children()]
        else:
            parts.append(name)
    if end not in parts:
        end = end.replace(".", "_")  # what timm calls a stage of its own accord
    if end not in parts:
        raise ConfigError(
            f"model.backbone.freeze_at={freeze_at}: this model of timm has no such stage to freeze "
            "up to; 0 trains everything"
        )
    # 1 is the stem: what lies before the part that makes res2.
    return parts[: parts.index(end) + (freeze_at > 1)]
