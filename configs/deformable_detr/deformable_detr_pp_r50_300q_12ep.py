"""Deformable DETR++, two-stage, ResNet-50, 300 queries, 12 epochs: baseline of the ++ lines.

Published by H-DETR's authors: 47.0 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, plus_plus, three_rates

model = plus_plus(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
