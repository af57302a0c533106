"""Small: MS-DETR on Hybrid DETR on Deformable DETR++."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("hybrid", mixed=True)
