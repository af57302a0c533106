"""Deformable DETR, two-stage with box refinement (arXiv:2010.04159), ResNet-50, FFN 2048."""

from detectron2.config import LazyCall as L

from ms_detr.backbones import resnet
from ms_detr.layers import (
    FFN,
    DeformableAttention,
    DeformableSublayer,
    SelfAttention,
    SinePositionEncoding,
)
from ms_detr.meta_arch import MSDETR
from ms_detr.modeling import (
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
from ms_detr.supervision import (
    Criterion,
    FocalLoss,
    GIoULoss,
    HungarianAssigner,
    L1Loss,
    Losses,
    SupervisionTerm,
    Terms,
)


def losses(class_weight):
    return L(Losses)(
        **{"class": L(FocalLoss)(weight=class_weight, alpha=0.25, gamma=2.0)},
        bbox=L(L1Loss)(weight=5.0),
        giou=L(GIoULoss)(weight=2.0),
    )


def ffn():
    return L(FFN)(
        embed_dim="${model.embed_dim}",
        feedforward_dim="${model.feedforward_dim}",
        dropout="${model.dropout}",
    )


def deformable():
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


def class_head():
    return L(ClassHead)(embed_dim="${model.embed_dim}", num_classes="${model.num_classes}")


def box_head():
    return L(BoxHead)(embed_dim="${model.embed_dim}")


model = L(MSDETR)(
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
        extra_queries=[],
        ignore_padding="${model.neck.ignore_padding}",
    ),
    groups=L(Groups)(),
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
    ),
    criterion=L(Criterion)(
        terms=L(Terms)(
            o2o=L(SupervisionTerm)(
                source="decoder",
                assigner=L(HungarianAssigner)(class_cost=2.0, l1_cost=5.0, giou_cost=2.0),
                losses=losses(class_weight=2.0),
                weight=1.0,
            ),
            encoder=L(SupervisionTerm)(
                source="encoder",
                assigner=L(HungarianAssigner)(
                    class_cost=2.0, l1_cost=5.0, giou_cost=2.0, class_agnostic=True
                ),
                losses=losses(class_weight=2.0),
                weight=1.0,
            ),
        ),
    ),
    postprocess=L(Postprocess)(top_k=100),
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
)
