"""DETR's frame: one feature map, dense attention, no box refinement (arXiv:2005.12872)."""

from detectron2.config import LazyCall as L
from torch import nn

from ms_detr.layers import DenseAttention, SinePositionEncoding
from ms_detr.modeling import SingleScaleNeck
from ms_detr.variants import PositionInitializer


def attention(kind=DenseAttention, **options):
    return L(kind)(
        embed_dim="${model.embed_dim}",
        num_heads="${model.num_heads}",
        dropout="${model.dropout}",
        **options,
    )


def detr(model, dilated=False):
    """Change a two-stage model in place, and return it.

    Classes keep their sigmoid and focal loss; the original's softmax with a class for nothing is
    not here.

    Args:
        dilated: the feature map has stride 16 instead of 32 (DC5).
    """
    model.backbone.out_features = ["res5"]
    model.backbone.dilated = dilated
    model.neck = L(SingleScaleNeck)(
        in_channels=dict(res5=2048),
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
