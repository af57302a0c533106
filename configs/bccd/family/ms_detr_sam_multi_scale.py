"""Blood cells: MS-DETR, published weights, on SAM-DETR on several scales."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "sam_multi_scale", "family/ms_detr_sam_multi_scale", ms_detr
)
