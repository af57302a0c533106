"""Align-DETR on DINO, ResNet-50, four feature levels, 900 queries, 12 epochs.

Published by its authors, who also train res2: 50.3 box AP on COCO val2017.
"""

from ms_detr.recipes import align, coco, deformable_detr, two_rates

model = align(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
