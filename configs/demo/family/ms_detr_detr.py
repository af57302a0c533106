"""Small: MS-DETR on DETR."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("detr", mixed=True)
