"""Blood cells: Deformable DETR++ with IA-BCE."""

from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("ia_bce", "family/ia_bce")
