"""Conditional DETR (arXiv:2108.06152): contents and places are compared apart."""

from detectron2.config import LazyCall as L

from ms_detr.layers import ConditionalAttention, ConditionalSelfAttention
from ms_detr.modeling import DecoderLayer
from ms_detr.variants import ConditionalInitializer

from .dense import attention, dense


def conditional(model, dilated=False):
    """Change a two-stage model in place, and return it; see `dense`."""
    model = dense(model, dilated)
    model.query_initializer._target_ = ConditionalInitializer
    model.decoder.layer.self_attention = attention(ConditionalSelfAttention)
    model.decoder.layer.cross_attention = attention(ConditionalAttention)
    layer = "${model.decoder.layer.%s}"
    model.decoder.first_layer = L(DecoderLayer)(
        order=layer % "order",
        taps=layer % "taps",
        self_attention=layer % "self_attention",
        cross_attention=attention(ConditionalAttention, first_layer=True),
        ffn=layer % "ffn",
    )
    return model
