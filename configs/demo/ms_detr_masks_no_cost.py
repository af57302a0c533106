"""The demo's MS-DETR with masks that take no part in matching."""

from ms_detr.recipes.demo import demo, small_masks

model, dataloader, train, optimizer, lr_multiplier = demo(
    "plus_plus", "ms_detr_masks_no_cost", mixed=True
)
small_masks(model, mask_cost=False)
dataloader.masks = True
