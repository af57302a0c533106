"""Small: MS-DETR on DAB-Deformable-DETR."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("dab_deformable", mixed=True)
