"""Small: MS-DETR and Co-DETR with Faster R-CNN and ATSS on Deformable DETR++."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("co", mixed=True)
