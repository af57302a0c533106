"""Conditional DETR (arXiv:2108.06152): contents and places are compared apart."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..layers import ConditionalAttention, ConditionalSelfAttention
from ..modeling import DecoderLayer
from ..variants import ConditionalInitializer
from ._guard import recipe
from ._initializer import initializer_of
from .dense import attention, dense


@recipe
def conditional(model: DictConfig, dilated: bool = False) -> DictConfig:
    """Conditional attention in DETR's frame; see `dense`."""
    dense(model, dilated)
    initializer_of(model)["_target_"] = ConditionalInitializer
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
