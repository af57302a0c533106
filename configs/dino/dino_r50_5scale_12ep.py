"""DINO, ResNet-50, five feature levels from stride 4 on, 900 queries, 12 epochs.

Published by its authors: 49.4 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, dino, five_scales, two_rates

model = five_scales(dino(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
