"""Small: MS-DETR on SMCA, three feature levels."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("smca_multi_scale", mixed=True)
