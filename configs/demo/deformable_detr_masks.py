"""The demo's baseline with instance masks."""

from ms_detr.recipes.demo import demo, small_masks

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", "deformable_detr_masks")
small_masks(model)
dataloader.masks = True
