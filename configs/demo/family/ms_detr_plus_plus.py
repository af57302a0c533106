"""Small: MS-DETR on Deformable DETR++, two-stage."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("ms_detr_plus_plus")
