"""The baseline on blood cells: Deformable DETR in two stages, small, pretrained backbone."""

from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("two_stage", "deformable_detr")
