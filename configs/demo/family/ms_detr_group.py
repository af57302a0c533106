"""Small: MS-DETR on Group DETR on Deformable DETR++."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("group", mixed=True)
