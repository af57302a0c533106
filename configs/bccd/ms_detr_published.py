"""MS-DETR on blood cells with the published weights of its losses."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("two_stage", "ms_detr_published", ms_detr)
