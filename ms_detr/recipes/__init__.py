"""Methods as functions: each changes a model's config in place and returns it; they combine.

A config, wherever it lies, puts them together::

    from ms_detr.recipes import coco, deformable_detr, dino, ms_detr, two_rates

    model = ms_detr(dino(deformable_detr()))
    dataloader = coco()
    train, optimizer, lr_multiplier = two_rates()
"""

from ._guard import recipe
from .align import align
from .backbones import (
    efficientnet_lite0,
    five_scales,
    resnet101,
    swin_large,
    swin_large_384,
    swin_small,
    swin_tiny,
)
from .co_detr import atss, co_detr, co_dino, fcos, rcnn, retinanet
from .conditional import conditional
from .dab import dab
from .dab_deformable import dab_deformable
from .data import coco, coco_lsj, copy_paste, demo_data, lvis, square_tests
from .deformable_detr import deformable_detr
from .denoising import contrastive_denoising, denoising
from .dense import dense, detr
from .dino import dino
from .federated import federated
from .group import group, group_two_stage
from .hybrid import hybrid
from .iou_aware import ia_bce, quality_focal, varifocal
from .masks import dot_product, mask_attention, with_masks, with_prior
from .mixed_supervision import (
    after_cross_attention,
    after_cross_attention_with_own_heads,
    after_self_attention,
    at_the_output,
    at_the_output_self_first,
    fading_ms_detr,
    mixed_supervision,
    ms_detr,
    normalised_ms_detr,
)
from .postprocess import soft_nms
from .refinements import one_stage, plus_plus
from .sam_detr import gaussian_modulation, sam_detr, sam_detr_multi_scale
from .smca import smca, smca_multi_scale
from .training import adamw, run, step, three_rates, two_rates, warmup_cosine

__all__ = [
    "adamw",
    "after_cross_attention",
    "after_cross_attention_with_own_heads",
    "after_self_attention",
    "align",
    "at_the_output",
    "at_the_output_self_first",
    "atss",
    "co_detr",
    "co_dino",
    "coco",
    "coco_lsj",
    "conditional",
    "contrastive_denoising",
    "copy_paste",
    "dab",
    "dab_deformable",
    "deformable_detr",
    "demo_data",
    "denoising",
    "dense",
    "detr",
    "dino",
    "dot_product",
    "efficientnet_lite0",
    "fading_ms_detr",
    "fcos",
    "federated",
    "five_scales",
    "gaussian_modulation",
    "group",
    "group_two_stage",
    "hybrid",
    "ia_bce",
    "lvis",
    "mask_attention",
    "mixed_supervision",
    "ms_detr",
    "normalised_ms_detr",
    "one_stage",
    "plus_plus",
    "quality_focal",
    "rcnn",
    "recipe",
    "resnet101",
    "retinanet",
    "run",
    "sam_detr",
    "sam_detr_multi_scale",
    "smca",
    "smca_multi_scale",
    "soft_nms",
    "square_tests",
    "step",
    "swin_large",
    "swin_large_384",
    "swin_small",
    "swin_tiny",
    "three_rates",
    "two_rates",
    "varifocal",
    "warmup_cosine",
    "with_masks",
    "with_prior",
]
