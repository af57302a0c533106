"""Small: MS-DETR on Co-DINO."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("co_dino", mixed=True)
