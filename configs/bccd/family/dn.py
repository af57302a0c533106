"""Blood cells: DN-DETR."""

from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("dn", "family/dn")
