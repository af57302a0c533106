"""Small: MS-DETR on DAB-DETR."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("dab", mixed=True)
