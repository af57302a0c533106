"""Blood cells: MS-DETR, published weights, on Deformable DETR++."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "plus_plus", "family/ms_detr_plus_plus", ms_detr
)
