"""Detection heads beside the decoder, which train the encoder one-to-many."""

from .branch import Adapter, Auxiliary, AuxiliaryHead, AuxiliaryHeads, Found
from .pyramid import Pyramid

__all__ = [
    "Adapter",
    "Auxiliary",
    "AuxiliaryHead",
    "AuxiliaryHeads",
    "Found",
    "Pyramid",
]
