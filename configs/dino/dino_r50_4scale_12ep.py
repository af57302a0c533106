"""DINO, ResNet-50, four feature levels, 900 queries, 12 epochs.

Published by its authors: 49.0 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, dino, two_rates

model = dino(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
