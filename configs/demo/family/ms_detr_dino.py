"""Small: MS-DETR on DINO."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("dino", mixed=True)
