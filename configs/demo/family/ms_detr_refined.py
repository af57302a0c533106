"""Small: MS-DETR on Deformable DETR with learned queries and box refinement."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("refined", mixed=True)
