"""Small: SAM-DETR with SMCA."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("sam_smca")
