"""The demo's MS-DETR with masks, supervised one-to-many as well."""

from ms_detr.recipes.demo import demo, small_masks

model, dataloader, train, optimizer, lr_multiplier = demo(
    "plus_plus", "ms_detr_masks_o2m", mixed=True
)
small_masks(model, terms=("o2o", "o2m"))
dataloader.masks = True
