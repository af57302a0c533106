"""Small: MS-DETR on SAM-DETR, three feature levels."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("sam_multi_scale", mixed=True)
