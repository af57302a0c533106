"""Other backbones than ResNet-50, and their ImageNet weights; each changes model and train."""

from detectron2.config import LazyCall as L

from ms_detr.backbones import TimmBackbone

RESNET101 = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"


def resnet101(model, train):
    """ResNet-101 of torchvision instead of ResNet-50, in place; returns the model."""
    model.backbone.depth = 101
    train.init_checkpoint = RESNET101
    return model


def swin_tiny(model, train):
    """Swin-T, pretrained on ImageNet-1k, in place; returns the model."""
    train.init_checkpoint = f"{SWIN}/swin_tiny_patch4_window7_224.pth"
    return _swin(model, "swin_tiny_patch4_window7_224", width=96)


def swin_small(model, train):
    """Swin-S, pretrained on ImageNet-1k, in place; returns the model."""
    train.init_checkpoint = f"{SWIN}/swin_small_patch4_window7_224.pth"
    return _swin(model, "swin_small_patch4_window7_224", width=96)


def swin_large(model, train):
    """Swin-L, pretrained on ImageNet-22k, in place; returns the model."""
    train.init_checkpoint = f"{SWIN}/swin_large_patch4_window7_224_22k.pth"
    return _swin(model, "swin_large_patch4_window7_224", width=192)


def swin_large_384(model, train):
    """Swin-L with windows of 12, pretrained on larger images, in place; returns the model."""
    train.init_checkpoint = f"{SWIN}/swin_large_patch4_window12_384_22k.pth"
    return _swin(model, "swin_large_patch4_window12_384", width=192)


def _swin(model, name, width):
    model.backbone = L(TimmBackbone)(
        name=name,
        out_features=("res3", "res4", "res5"),
        pretrained=False,
        freeze_at=0,
        output_norm=True,
        size_divisibility=4,
        # Images of any size; windows and shifts stay as they are on small maps.
        options=dict(strict_img_size=False, always_partition=True, drop_path_rate=0.2),
    )
    model.neck.in_channels = dict(res3=2 * width, res4=4 * width, res5=8 * width)
    return model


def five_scales(model):
    """Read the map of stride 4 as well: five levels, in place; returns the model."""
    model.backbone.out_features = ("res2", "res3", "res4", "res5")
    channels = model.neck.in_channels
    model.neck.in_channels = dict(res2=channels.res3 // 2, **channels)
    model.neck.num_levels = 5
    return model
