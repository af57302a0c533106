"""DINO (arXiv:2203.03605) as its authors released it; for five scales see `backbones`."""

from detectron2.config import LazyCall as L
from torch import nn

from ms_detr.supervision import HungarianAssigner, SupervisionTerm
from ms_detr.variants import DINOInitializer

from .deformable_detr import box_head, class_head, losses
from .groups import contrastive_denoising


def dino(model):
    """Change a two-stage model in place, and return it."""
    model.dropout = 0.0
    model.num_queries = 900
    model.neck.position.temperature = 20.0
    model.neck.position.offset = 0.0
    model.query_initializer = L(DINOInitializer)(
        num_queries="${model.num_queries}",
        embed_dim="${model.embed_dim}",
        class_head=class_head(),
        box_head=box_head(),
        anchor_size=0.05,
        extra_queries=[],
        ignore_padding="${model.neck.ignore_padding}",
    )
    model.decoder.epsilon = 1e-3
    model.decoder.look_forward_twice = True
    model.decoder.share_heads = True
    model.decoder.output_norm = L(nn.LayerNorm)(normalized_shape="${model.embed_dim}")
    terms = model.criterion.terms
    terms.o2o.losses["class"].weight = 1.0
    terms.encoder = L(SupervisionTerm)(
        source="encoder",
        assigner=L(HungarianAssigner)(class_cost=2.0, l1_cost=5.0, giou_cost=2.0),
        losses=losses(class_weight=1.0),
        weight=1.0,
    )
    model.postprocess.top_k = 300
    return contrastive_denoising(model)
