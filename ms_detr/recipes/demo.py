"""The demo: every method of the family, small enough to train from scratch on two CPU cores.

What differs from COCO is here, in one place. `METHODS` has the methods by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..backbones import small_resnet
from ..errors import ConfigError
from ._initializer import initializer_of
from .align import align
from .co_detr import atss, co_detr, co_dino
from .conditional import conditional
from .dab import dab
from .dab_deformable import dab_deformable
from .data import coco, demo_data
from .deformable_detr import deformable_detr
from .denoising import contrastive_denoising, denoising
from .dense import detr
from .dino import dino
from .group import group
from .hybrid import hybrid
from .iou_aware import ia_bce, varifocal
from .masks import dot_product, with_masks, with_prior
from .mixed_supervision import ms_detr
from .refinements import one_stage, plus_plus
from .sam_detr import gaussian_modulation, sam_detr, sam_detr_multi_scale
from .smca import smca, smca_multi_scale
from .training import adamw, run, warmup_cosine

# model, dataloader, train, optimizer, lr_multiplier
Nodes = tuple[DictConfig, DictConfig, DictConfig, DictConfig, DictConfig]


def narrow(model: DictConfig) -> DictConfig:
    """Make a COCO model's transformer, of any method, as small as the demo's, in place."""
    model.embed_dim = 64
    model.num_heads = 4
    model.feedforward_dim = 256
    model.dropout = 0.0
    if "num_levels" in model.neck:
        model.neck.num_levels = 3
        if "attention" in model.encoder.layer.attention:  # SMCA's encoder has dense attention
            model.encoder.layer.attention.attention.num_points = 2
    model.encoder.num_layers = 3 if "middle_layer" in model.encoder else 2
    model.encoder.layer.ffn.feedforward_dim = "${model.feedforward_dim}"
    model.decoder.num_layers = 3
    if "levels" in model.decoder:
        model.decoder.levels = (2, 1, 0)
    initializer = initializer_of(model)
    if "anchor_size" in initializer:  # objects fill more of these images than of COCO's
        initializer.anchor_size = 0.2
    return model


def small(model: DictConfig) -> DictConfig:
    """Make a COCO model of any method a demo model, in place."""
    narrow(model)
    model.num_classes = 6
    model.num_queries = 48
    model.backbone = L(small_resnet)(widths=(24, 48, 96, 160), blocks=2, norm="BN")
    if "num_levels" in model.neck:
        model.neck.in_channels = dict(res2=48, res3=96, res4=160)
    else:  # one map, of stride 8: at stride 32 these images have 16 cells
        model.neck.in_channels = dict(res2=48)
    model.backbone.out_features = list(model.neck.in_channels)
    return model


def small_masks(model: DictConfig, branch: DictConfig | None = None, **options: Any) -> DictConfig:
    """Add masks at the demo's size, in place.

    At a weight of 5 their losses drown the boxes' in so few steps. Masks have stride 2, because
    objects are small, and start from the boxes.
    """
    branch = branch or with_prior(dot_product(scale=2, stem=24))
    return with_masks(model, branch, weight=1.0, num_points=1024, **options)


Small = Callable[[DictConfig], DictConfig]  # a recipe such as `small`


@dataclass(frozen=True)
class Method:
    """A method at the demo's size.

    Attributes:
        build: makes its model, small by the recipe that it is given.
        lr: the learning rate. That of dense attention is lower, because at the others' the loss
            stops falling after some hundred iterations.
        class_weight: the weight of one-to-one classification. It is 2, and 1 for losses that know
            how well a box fits.
    """

    build: Callable[[Small], DictConfig]
    lr: float = 2e-3
    class_weight: float = 2.0


def _plus_plus(small: Small) -> DictConfig:
    return small(plus_plus(deformable_detr()))


def _denoised(model: DictConfig, **options: int) -> DictConfig:
    """Set how many queries denoise, in place; an image has some nine objects."""
    model.groups.denoising.update(options)
    return model


def _auxiliary(model: DictConfig) -> DictConfig:
    """Weigh auxiliary heads as the paper does in a decoder of three layers, in place."""
    for name, head in model.auxiliary.heads.items():
        if name != "_target_":
            head.weight = 2.0 * model.decoder.num_layers
            if "sampler" in head:  # 512 regions of 1024 channels would be most of a step
                head.sampler.number = 64
                head.channels = 256
    return model


METHODS = {
    "two_stage": Method(lambda small: small(deformable_detr())),
    "plus_plus": Method(_plus_plus),
    "one_stage": Method(lambda small: small(one_stage(deformable_detr(), box_refinement=False))),
    "refined": Method(lambda small: small(one_stage(deformable_detr(), box_refinement=True))),
    "dab_deformable": Method(lambda small: small(dab_deformable(deformable_detr()))),
    "dino": Method(lambda small: _denoised(small(dino(deformable_detr())), num_queries=40)),
    "align": Method(
        lambda small: _denoised(small(align(deformable_detr())), num_queries=40), class_weight=1.0
    ),
    "detr": Method(lambda small: small(detr(deformable_detr())), lr=5e-4),
    "conditional": Method(lambda small: small(conditional(deformable_detr())), lr=5e-4),
    "dab": Method(lambda small: small(dab(deformable_detr())), lr=5e-4),
    "smca": Method(lambda small: small(smca(deformable_detr())), lr=5e-4),
    "smca_multi_scale": Method(lambda small: small(smca_multi_scale(deformable_detr())), lr=5e-4),
    "sam": Method(lambda small: small(sam_detr(deformable_detr())), lr=5e-4),
    "sam_smca": Method(
        lambda small: small(gaussian_modulation(sam_detr(deformable_detr()))), lr=5e-4
    ),
    "sam_multi_scale": Method(
        lambda small: small(sam_detr_multi_scale(deformable_detr())), lr=5e-4
    ),
    "hybrid": Method(lambda small: hybrid(_plus_plus(small), num_queries=150)),
    "group": Method(lambda small: group(_plus_plus(small), num_groups=4)),
    "dn": Method(lambda small: _denoised(denoising(_plus_plus(small)), num_groups=4)),
    "cdn": Method(
        lambda small: _denoised(contrastive_denoising(_plus_plus(small)), num_queries=40)
    ),
    "co": Method(lambda small: _auxiliary(co_detr(_plus_plus(small)))),
    "co_atss": Method(lambda small: _auxiliary(co_detr(_plus_plus(small), heads=(atss,)))),
    "co_dino": Method(
        lambda small: _auxiliary(_denoised(small(co_dino(deformable_detr())), num_queries=40)),
        class_weight=1.0,
    ),
    "ia_bce": Method(lambda small: ia_bce(_plus_plus(small)), class_weight=1.0),
    "varifocal": Method(lambda small: varifocal(_plus_plus(small)), class_weight=1.0),
}


def method(name: str) -> Method:
    """Return the method of a name; raises ConfigError where there is none."""
    if name not in METHODS:
        raise ConfigError(f"the demo has no method '{name}'; choose from {', '.join(METHODS)}")
    return METHODS[name]


def demo(name: str, folder: str = "", *, mixed: bool = False) -> Nodes:
    """Return the config of a method at the demo's size.

    Two weights differ from the paper's, which are made for 90,000 iterations from a pretrained
    backbone: one-to-one classification 2 instead of 1, one-to-many supervision at half weight.

    Args:
        name: a key of `METHODS`.
        folder: of the run, in ``output/demo``; if empty, ``family/`` and the method's name, behind
            ``ms_detr_`` with mixed supervision.
        mixed: whether it is trained by MS-DETR's mixed supervision.

    Raises:
        ConfigError: there is no such method.
    """
    chosen = method(name)
    model = chosen.build(small)
    if mixed:
        ms_detr(model)
        model.criterion.terms.o2m.weight = 0.5
    model.criterion.terms.o2o.losses["class"].weight = chosen.class_weight
    prefix = "ms_detr_" if mixed else ""
    train = run(
        output_dir=f"output/demo/{folder or f'family/{prefix}{name}'}",
        init_checkpoint="",
        epochs=None,
        max_iter=3200,
        lr_batch_size=8,
        eval_epochs=0.0,
        clip_grad_norm=1.0,
        log_period=50,
    )
    return model, demo_data(), train, small_adamw(chosen.lr), warmup_cosine()


def small_adamw(lr: float) -> DictConfig:
    """AdamW for trainings of a few thousand steps: one rate, and a memory of gradients as short."""
    optimizer = adamw(lr)
    optimizer.betas = (0.9, 0.99)
    optimizer.fused = True
    return optimizer


def on_own_images(masks: bool = False) -> Nodes:
    """Return the config of a small MS-DETR for images of any size, which are made smaller.

    The datasets are COCO's until others are named. Batches have four images, and the rate of the
    demo's eight is scaled.
    """
    model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", mixed=True)
    if masks:
        small_masks(model)
    dataloader.masks = masks
    for loader, named in ((dataloader.train, coco().train), (dataloader.test, coco().test)):
        for key in ("name", "images", "annotations"):
            loader.dataset[key] = named.dataset[key]
        loader.mapper.augmentations.max_size = 240
    dataloader.short_edge = 160
    dataloader.train.total_batch_size = 4
    train.update(
        output_dir=None, epochs=12.0, max_iter=None, lr_scaling="linear", log_period=20,
        eval_epochs=1.0,
    )  # fmt: skip
    return model, dataloader, train, optimizer, lr_multiplier
