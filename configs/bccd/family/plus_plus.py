"""Blood cells: Deformable DETR++."""

from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("plus_plus", "family/plus_plus")
