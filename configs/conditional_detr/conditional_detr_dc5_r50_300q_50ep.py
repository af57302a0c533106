"""Conditional DETR, ResNet-50, DC5, 300 queries, 50 epochs.

Published by its authors: 43.7 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, conditional, deformable_detr, two_rates

model = conditional(deformable_detr(), dilated=True)
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
