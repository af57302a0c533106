"""SMCA, ResNet-50, three feature levels, 300 queries, 50 epochs.

Published by its authors: 43.7 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, smca_multi_scale, two_rates

model = smca_multi_scale(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
