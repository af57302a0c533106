"""Blood cells: MS-DETR, published weights, on DN-DETR."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("dn", "family/ms_detr_dn", ms_detr)
