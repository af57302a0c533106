"""DETR (arXiv:2005.12872): one feature map, dense attention, no box refinement."""

from collections.abc import Callable
from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError
from ..layers import DenseAttention, SinePositionEncoding
from ..modeling import SingleScaleNeck
from ..variants import PositionInitializer
from ..variants.detr import OneClassPostprocess, ProbabilityCost, SoftmaxHead, SoftmaxLoss
from ._guard import recipe
from ._initializer import set_initializer


def attention(kind: Callable[..., Any] = DenseAttention, **options: Any) -> DictConfig:
    """Attention to all tokens of a map."""
    return L(kind)(
        embed_dim="${model.embed_dim}",
        num_heads="${model.num_heads}",
        dropout="${model.dropout}",
        **options,
    )


@recipe
def dense(model: DictConfig, dilated: bool = False) -> DictConfig:
    """DETR's frame; classes keep sigmoid and focal loss. The map is the coarsest that is read.

    Args:
        dilated: a ResNet's feature map has stride 16 instead of 32 (DC5).
    """
    if model.auxiliary is not None:
        raise ConfigError(
            "dense() reads one map, the heads in model.auxiliary need several maps: choose one of "
            "the two"
        )
    name, channels = list(model.neck.in_channels.items())[-1]
    model.backbone.out_features = [name]
    if dilated:
        model.backbone.dilated = True
    model.neck = L(SingleScaleNeck)(
        in_channels={name: channels},
        embed_dim="${model.embed_dim}",
        position=L(SinePositionEncoding)(
            embed_dim="${model.embed_dim}", temperature=10000.0, offset=0.0
        ),
    )
    model.encoder.layer.attention = attention()
    set_initializer(model, PositionInitializer)
    model.decoder.layer.cross_attention = attention()
    model.decoder.box_refinement = False
    model.decoder.output_norm = L(nn.LayerNorm)(normalized_shape="${model.embed_dim}")
    model.criterion.terms.encoder = None
    return model


@recipe
def detr(model: DictConfig, dilated: bool = False) -> DictConfig:
    """DETR with softmax over the classes and nothing, in all terms; see `dense`."""
    dense(model, dilated)
    model.decoder.class_head["_target_"] = SoftmaxHead
    terms = model.criterion.terms
    for name in terms.keys() & {"o2o", "o2m"}:
        terms[name].losses["class"] = L(SoftmaxLoss)(weight=1.0, background=0.1)
    terms.o2o.assigner.class_cost = 1.0
    terms.o2o.assigner.class_distance = L(ProbabilityCost)()
    model.postprocess["_target_"] = OneClassPostprocess
    return model
