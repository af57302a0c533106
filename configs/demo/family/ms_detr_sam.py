"""Small: MS-DETR on SAM-DETR."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("sam", mixed=True)
