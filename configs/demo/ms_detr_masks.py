"""The demo's MS-DETR with instance masks."""

from ms_detr.recipes.demo import demo, small_masks

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", "ms_detr_masks", mixed=True)
small_masks(model)
dataloader.masks = True
