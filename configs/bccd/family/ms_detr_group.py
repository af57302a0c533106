"""Blood cells: MS-DETR, published weights, on Group DETR."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("group", "family/ms_detr_group", ms_detr)
