"""Who supervises what: assigners, losses, terms and the criterion."""

from .assigners import (
    AnchorHungarianAssigner,
    Assigner,
    HungarianAssigner,
    KnownAssigner,
    RepeatedHungarianAssigner,
    focal_cost,
)
from .criterion import Criterion, Terms, in_full_precision
from .losses import FocalLoss, GIoULoss, L1Loss, Loss, Losses
from .masks import DiceLoss, MaskCost, MaskLoss, MaskPoints, PointLoss
from .objects import AssignedPairs, KnownObjects, LocalObjects, ObjectCount, count_objects
from .one_to_many import MaskOverlap, MergedTopK, OneToManyAssigner, PaperTopK, ReleasedTopK
from .term import SupervisionTerm

__all__ = [
    "AnchorHungarianAssigner",
    "AssignedPairs",
    "Assigner",
    "Criterion",
    "DiceLoss",
    "FocalLoss",
    "GIoULoss",
    "HungarianAssigner",
    "KnownAssigner",
    "KnownObjects",
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
    "count_objects",
    "focal_cost",
    "in_full_precision",
]
