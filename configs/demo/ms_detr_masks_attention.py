"""The demo's MS-DETR with DETR's mask head, at the resolution of the stem."""

from ms_detr.recipes import mask_attention, with_prior
from ms_detr.recipes.demo import demo, small_masks

model, dataloader, train, optimizer, lr_multiplier = demo(
    "plus_plus", "ms_detr_masks_attention", mixed=True
)
branch = with_prior(mask_attention(stride=1, res3=96, res2=48, stem=24))
small_masks(model, branch, mask_cost=False)
dataloader.masks = True
