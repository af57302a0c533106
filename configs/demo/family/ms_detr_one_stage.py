"""Small: MS-DETR on Deformable DETR with learned queries and no box refinement."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("one_stage", mixed=True)
