"""SMCA, ResNet-50, 300 queries, 50 epochs.

Published by its authors: 41.0 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, smca, two_rates

model = smca(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
