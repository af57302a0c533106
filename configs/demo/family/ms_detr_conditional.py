"""Small: MS-DETR on Conditional DETR."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("conditional", mixed=True)
