"""Blood cells: MS-DETR, published weights, on Co-DETR on Deformable DETR++."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("co", "family/ms_detr_co", ms_detr)
