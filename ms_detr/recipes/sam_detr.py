"""SAM-DETR (arXiv:2203.06883): queries are made of what lies in their boxes, layer by layer."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError
from ..layers import (
    ConditionalSelfAttention,
    GaussianModulation,
    SAMPositionEncoding,
    SemanticAlignedAttention,
)
from ..variants import BoxInitializer
from ._guard import recipe
from ._initializer import set_initializer
from .dense import attention, dense

# Coarse to fine, two layers each.
LEVELS = (2, 2, 1, 1, 0, 0)


@recipe
def sam_detr(model: DictConfig, dilated: bool = False, group_norm: bool = True) -> DictConfig:
    """Semantic-aligned matching in DETR's frame; see `dense`.

    Args:
        group_norm: normalise the projected map. The models that their authors trained for 50
            epochs don't; they call that an accident.
    """
    dense(model, dilated)
    if group_norm:
        model.neck.norm = L(nn.GroupNorm)(num_groups=32, num_channels="${model.embed_dim}")
    model.decoder.box_refinement = True
    model.decoder.output_norm = None
    return _aligned(model)


@recipe
def sam_detr_multi_scale(model: DictConfig) -> DictConfig:
    """On three levels, of which a deformable encoder's tokens are read from coarse to fine."""
    model.neck.num_levels = 3
    model.neck.xavier = False
    model.encoder.layer.ffn.feedforward_dim = 1024
    model.decoder.levels = LEVELS
    model.criterion.terms.encoder = None
    return _aligned(model)


@recipe
def gaussian_modulation(model: DictConfig) -> DictConfig:
    """SMCA (arXiv:2101.07448) in SAM-DETR: a head attends around its own salient point."""
    sublayer = model.decoder.layer.cross_attention
    if sublayer["_target_"] is not SemanticAlignedAttention:
        raise ConfigError(
            "gaussian_modulation() needs the salient points of SAM-DETR: call sam_detr() or "
            "sam_detr_multi_scale() before it; smca() is the same for DETR"
        )
    sublayer.modulation = L(GaussianModulation)(smoothing=8.0)
    return model


def _aligned(model: DictConfig) -> DictConfig:
    """The queries and the decoder's attention."""
    model.neck.position["_target_"] = SAMPositionEncoding
    model.neck.position.offset = -0.5
    set_initializer(model, BoxInitializer)
    model.decoder.keep_logits = True
    model.decoder.layer.self_attention = attention(ConditionalSelfAttention)
    model.decoder.layer.cross_attention = attention(SemanticAlignedAttention)
    return model
