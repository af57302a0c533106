"""Who supervises what: assigners, losses, terms and the criterion."""

from .assigners import (
    AnchorHungarianAssigner,
    Assigner,
    HungarianAssigner,
    KnownAssigner,
    RepeatedHungarianAssigner,
    focal_cost,
)
from .criterion import Criterion, Terms
from .losses import FocalLoss, GIoULoss, L1Loss, Loss, Losses
from .masks import DiceLoss, MaskCost, MaskLoss, MaskPoints, PointLoss
from .one_to_many import MaskOverlap, MergedTopK, OneToManyAssigner, PaperTopK, ReleasedTopK
from .term import LocalObjects, ObjectCount, SupervisionTerm

__all__ = [
    "AnchorHungarianAssigner",
    "Assigner",
    "Criterion",
    "DiceLoss",
    "FocalLoss",
    "GIoULoss",
    "HungarianAssigner",
    "KnownAssigner",
    "L1Loss",
    "LocalObjects",
    "Loss",
    "Losses",
    "MaskCost",
    "MaskLoss",
    "MaskOverlap",
    "MaskPoints",
    "MergedTopK",
    "ObjectCount",
    "OneToManyAssigner",
    "PaperTopK",
    "PointLoss",
    "ReleasedTopK",
    "RepeatedHungarianAssigner",
    "SupervisionTerm",
    "Terms",
    "focal_cost",
]
