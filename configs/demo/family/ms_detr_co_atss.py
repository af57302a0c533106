"""Small: MS-DETR and Co-DETR with ATSS alone on Deformable DETR++."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("co_atss", mixed=True)
