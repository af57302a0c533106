"""Who supervises what: assigners, losses, terms and the criterion."""

from .assigners import AnchorHungarianAssigner, Assigner, HungarianAssigner
from .criterion import Criterion, Terms
from .losses import FocalLoss, GIoULoss, L1Loss, Loss, Losses
from .one_to_many import MergedTopK, OneToManyAssigner, PaperTopK, ReleasedTopK
from .term import SupervisionTerm

__all__ = [
    "AnchorHungarianAssigner",
    "Assigner",
    "Criterion",
    "FocalLoss",
    "GIoULoss",
    "HungarianAssigner",
    "L1Loss",
    "Loss",
    "Losses",
    "MergedTopK",
    "OneToManyAssigner",
    "PaperTopK",
    "ReleasedTopK",
    "SupervisionTerm",
    "Terms",
]
