"""Blood cells: DINO."""

from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("dino", "family/dino")
