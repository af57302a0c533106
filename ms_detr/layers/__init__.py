"""Building blocks without knowledge of the model."""

from .deformable_attention import DeformableAttention
from .position import SinePositionEncoding
from .transformer import FFN, MLP, DeformableSublayer, SelfAttention

__all__ = [
    "FFN",
    "MLP",
    "DeformableAttention",
    "DeformableSublayer",
    "SelfAttention",
    "SinePositionEncoding",
]
