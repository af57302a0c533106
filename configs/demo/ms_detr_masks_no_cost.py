"""The demo's MS-DETR with masks that take no part in matching."""

from ms_detr.recipes.demo import demo, small_masks

model, dataloader, train, optimizer, lr_multiplier = demo(
    "ms_detr_plus_plus", "ms_detr_masks_no_cost"
)
small_masks(model, mask_cost=False)
dataloader.masks = True
