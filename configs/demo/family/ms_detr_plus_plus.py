"""Small: MS-DETR on Deformable DETR++, two-stage."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", mixed=True)
