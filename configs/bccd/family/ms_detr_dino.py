"""Blood cells: MS-DETR, published weights, on DINO."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("dino", "family/ms_detr_dino", ms_detr)
