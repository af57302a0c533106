"""DINO (arXiv:2203.03605) as its authors released it; for five scales see `five_scales`."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig
from torch import nn

from ..supervision import HungarianAssigner, SupervisionTerm
from ..variants import DINOInitializer
from ._guard import recipe
from ._initializer import set_initializer
from .deformable_detr import box_head, class_head, losses
from .denoising import contrastive_denoising


@recipe
def dino(model: DictConfig) -> DictConfig:
    """Selection by class, heads shared by all layers behind a norm, contrastive denoising."""
    model.dropout = 0.0
    model.num_queries = 900
    model.neck.position.temperature = 20.0
    model.neck.position.offset = 0.0
    set_initializer(
        model,
        DINOInitializer,
        class_head=class_head(),
        box_head=box_head(),
        anchor_size=0.05,
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
        mask_points=None,
    )
    model.postprocess.top_k = 300
    return contrastive_denoising(model)
