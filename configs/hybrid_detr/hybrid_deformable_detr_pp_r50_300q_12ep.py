"""Hybrid DETR on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

Published by its authors: 48.7 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, hybrid, plus_plus, three_rates

model = hybrid(plus_plus(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
