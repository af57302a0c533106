"""Blood cells: MS-DETR, published weights, on Hybrid DETR."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "hybrid", "family/ms_detr_hybrid", ms_detr
)
