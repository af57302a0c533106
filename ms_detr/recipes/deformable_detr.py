"""Deformable DETR, two-stage with box refinement (arXiv:2010.04159), ResNet-50, FFN 2048."""

from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..backbones import resnet
from ..computed_keys import EXTRA_QUERIES, SOURCES
from ..layers import (
    FFN,
    DeformableAttention,
    DeformableSublayer,
    SelfAttention,
    SinePositionEncoding,
)
from ..meta_arch import GeneralizedDETR
from ..modeling import (
    BoxHead,
    ClassHead,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    Groups,
    Neck,
    Postprocess,
    Taps,
    TwoStageInitializer,
)
from ..supervision import (
    Criterion,
    FocalLoss,
    GIoULoss,
    HungarianAssigner,
    L1Loss,
    Losses,
    SupervisionTerm,
    Terms,
    focal_cost,
)

FOLLOWED = ("assigner", "losses", "weight", "mask_points")


def losses(class_weight: float) -> DictConfig:
    """Losses of classes and boxes, as most methods weigh them."""
    named = {
        "class": L(FocalLoss)(weight=class_weight, alpha=0.25, gamma=2.0),
        "bbox": L(L1Loss)(weight=5.0),
        "giou": L(GIoULoss)(weight=2.0),
    }
    return L(Losses)(**named)


def ffn() -> DictConfig:
    """A layer's feed-forward network."""
    return L(FFN)(
        embed_dim="${model.embed_dim}",
        feedforward_dim="${model.feedforward_dim}",
        dropout="${model.dropout}",
    )


def deformable() -> DictConfig:
    """Deformable attention to all levels."""
    return L(DeformableSublayer)(
        embed_dim="${model.embed_dim}",
        attention=L(DeformableAttention)(
            embed_dim="${model.embed_dim}",
            num_heads="${model.num_heads}",
            num_levels="${model.neck.num_levels}",
            num_points=4,
        ),
        dropout="${model.dropout}",
    )


def class_head() -> DictConfig:
    """A head for classes; layers get copies, or share it."""
    return L(ClassHead)(embed_dim="${model.embed_dim}", num_classes="${model.num_classes}")


def box_head() -> DictConfig:
    """A head for boxes; layers get copies, or share it."""
    return L(BoxHead)(embed_dim="${model.embed_dim}")


def follow(name: str, source: str, **options: Any) -> DictConfig:
    """A term for another source that follows the term `name` by links, but for the options."""
    links = {key: f"${{model.criterion.terms.{name}.{key}}}" for key in FOLLOWED}
    return L(SupervisionTerm)(source=source, **{**links, **options})


def deformable_detr() -> DictConfig:
    """The model of the baseline, which every other recipe changes; fresh at every call."""
    return L(GeneralizedDETR)(
        num_classes=80,
        num_queries=300,
        embed_dim=256,
        num_heads=8,
        feedforward_dim=2048,
        dropout=0.1,
        backbone=L(resnet)(
            depth=50, norm="FrozenBN", freeze_at=2, out_features=("res3", "res4", "res5")
        ),
        neck=L(Neck)(
            in_channels=dict(res3=512, res4=1024, res5=2048),
            embed_dim="${model.embed_dim}",
            num_levels=4,
            position=L(SinePositionEncoding)(
                embed_dim="${model.embed_dim}", temperature=10000.0, offset=-0.5
            ),
            ignore_padding=False,
        ),
        encoder=L(Encoder)(
            layer=L(EncoderLayer)(attention=deformable(), ffn=ffn()),
            num_layers=6,
        ),
        query_initializer=L(TwoStageInitializer)(
            num_queries="${model.num_queries}",
            embed_dim="${model.embed_dim}",
            class_head=class_head(),
            box_head=box_head(),
            mixed_selection=False,
            anchor_size=0.05,
            extra_queries=EXTRA_QUERIES,
            ignore_padding="${model.neck.ignore_padding}",
        ),
        groups=L(Groups)(),
        auxiliary=None,
        evaluate_head=None,
        decoder=L(Decoder)(
            layer=L(DecoderLayer)(
                order=("self_attention", "cross_attention", "ffn"),
                self_attention=L(SelfAttention)(
                    embed_dim="${model.embed_dim}",
                    num_heads="${model.num_heads}",
                    dropout="${model.dropout}",
                ),
                cross_attention=deformable(),
                ffn=ffn(),
                taps=L(Taps)(),
            ),
            num_layers=6,
            class_head=class_head(),
            box_head=box_head(),
            look_forward_twice=False,
            epsilon=1e-5,
            sources=SOURCES,
        ),
        criterion=L(Criterion)(
            terms=L(Terms)(
                o2o=L(SupervisionTerm)(
                    source="decoder",
                    assigner=L(HungarianAssigner)(
                        class_cost=2.0, l1_cost=5.0, giou_cost=2.0, class_distance=focal_cost
                    ),
                    losses=losses(class_weight=2.0),
                    weight=1.0,
                    mask_points=None,
                ),
                encoder=L(SupervisionTerm)(
                    source="encoder",
                    assigner=L(HungarianAssigner)(
                        class_cost=2.0, l1_cost=5.0, giou_cost=2.0, class_agnostic=True
                    ),
                    losses=losses(class_weight=2.0),
                    weight=1.0,
                    mask_points=None,
                ),
            ),
        ),
        postprocess=L(Postprocess)(top_k=100),
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
    )
