"""SMCA (arXiv:2101.07448): dense attention that Gaussian maps around the queries narrow down."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..layers import IntraScaleAttention, ModulatedAttention, SinePositionEncoding
from ..modeling import EncoderLayer, Neck
from ..variants import SMCAInitializer
from ._guard import recipe
from ._initializer import initializer_of
from .dense import attention, dense


@recipe
def smca(model: DictConfig, dilated: bool = False, scales: int = 2) -> DictConfig:
    """Modulated attention in DETR's frame; see `dense`.

    Args:
        scales: see `ms_detr.layers.gaussian.HeadGaussians`.
    """
    dense(model, dilated)
    initializer = initializer_of(model)
    initializer["_target_"] = SMCAInitializer
    initializer.num_layers = "${model.decoder.num_layers}"
    model.decoder.layer.cross_attention = attention(
        ModulatedAttention, num_levels=1, scales=scales, smoothing=8.0
    )
    model.decoder.box_head.zero = False
    model.postprocess.top_k = "${model.num_queries}"
    return model


@recipe
def smca_multi_scale(model: DictConfig, scales: int = 2) -> DictConfig:
    """SMCA on three levels of strides 16 to 64: queries select among them (section 3.3)."""
    maps = dict(list(model.neck.in_channels.items())[-2:])
    smca(model, scales=scales)
    model.backbone.out_features = list(maps)
    model.neck = L(Neck)(
        in_channels=maps,
        embed_dim="${model.embed_dim}",
        num_levels=3,
        position=L(SinePositionEncoding)(
            embed_dim="${model.embed_dim}", temperature=10000.0, offset=0.0
        ),
        ignore_padding=False,
    )
    model.feedforward_dim = 1024
    layer = model.encoder.layer
    layer.attention = attention(IntraScaleAttention)
    model.encoder.num_layers = 5
    model.encoder.middle_layer = L(EncoderLayer)(
        attention=attention(), ffn="${model.encoder.layer.ffn}"
    )
    model.decoder.layer.cross_attention.num_levels = "${model.neck.num_levels}"
    return model
