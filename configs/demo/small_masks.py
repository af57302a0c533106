"""The same with instance masks."""

from ms_detr.recipes.demo import on_own_images

model, dataloader, train, optimizer, lr_multiplier = on_own_images(masks=True)
