"""Deformable DETR++, two-stage, Swin-L, 300 queries, 12 epochs.

Published by H-DETR's authors: 54.5 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, plus_plus, swin_large, three_rates

model = plus_plus(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
swin_large(model, train)
