"""DETR's frame: one feature map, dense attention, no box refinement (arXiv:2005.12872)."""

from detectron2.config import LazyCall as L
from torch import nn

from ms_detr.layers import DenseAttention, SinePositionEncoding
from ms_detr.modeling import SingleScaleNeck
from ms_detr.variants import PositionInitializer
from ms_detr.variants.detr import OneClassPostprocess, ProbabilityCost, SoftmaxHead, SoftmaxLoss


def attention(kind=DenseAttention, **options):
    return L(kind)(
        embed_dim="${model.embed_dim}",
        num_heads="${model.num_heads}",
        dropout="${model.dropout}",
        **options,
    )


def dense(model, dilated=False):
    """Change a two-stage model in place, and return it; classes keep sigmoid and focal loss.

    The map is the coarsest one that the model reads.

    Args:
        dilated: a ResNet's feature map has stride 16 instead of 32 (DC5).
    """
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
    model.query_initializer = L(PositionInitializer)(
        num_queries="${model.num_queries}", embed_dim="${model.embed_dim}", extra_queries=[]
    )
    model.decoder.layer.cross_attention = attention()
    model.decoder.box_refinement = False
    model.decoder.output_norm = L(nn.LayerNorm)(normalized_shape="${model.embed_dim}")
    model.criterion.terms.encoder = None
    return model


def detr(model, dilated=False):
    """DETR with softmax over the classes and nothing, in all terms; see `dense`."""
    model = dense(model, dilated)
    model.decoder.class_head._target_ = SoftmaxHead
    terms = model.criterion.terms
    for name in terms.keys() & {"o2o", "o2m"}:
        terms[name].losses["class"] = L(SoftmaxLoss)(weight=1.0, background=0.1)
    terms.o2o.assigner.class_cost = 1.0
    terms.o2o.assigner.class_distance = L(ProbabilityCost)()
    model.postprocess._target_ = OneClassPostprocess
    return model
