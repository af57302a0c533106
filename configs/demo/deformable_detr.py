"""The demo's baseline: Deformable DETR++, small, from scratch on generated images."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", "deformable_detr")
