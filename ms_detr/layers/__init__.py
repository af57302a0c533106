"""Building blocks without knowledge of the model."""

from .aligned_attention import GaussianModulation, SemanticAlignedAttention
from .deformable_attention import DeformableAttention
from .dense_attention import (
    ConditionalAttention,
    ConditionalSelfAttention,
    DenseAttention,
    IntraScaleAttention,
)
from .gaussian import log_gaussian
from .modulated_attention import ModulatedAttention
from .position import SAMPositionEncoding, SinePositionEncoding
from .transformer import FFN, MLP, DeformableSublayer, LayerContext, SelfAttention, TokenReader

__all__ = [
    "FFN",
    "MLP",
    "ConditionalAttention",
    "ConditionalSelfAttention",
    "DeformableAttention",
    "DeformableSublayer",
    "DenseAttention",
    "GaussianModulation",
    "IntraScaleAttention",
    "LayerContext",
    "ModulatedAttention",
    "SAMPositionEncoding",
    "SelfAttention",
    "SemanticAlignedAttention",
    "SinePositionEncoding",
    "TokenReader",
    "log_gaussian",
]
