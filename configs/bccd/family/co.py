"""Blood cells: Co-DETR on Deformable DETR++."""

from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("co", "family/co")
