"""DETR, ResNet-50, 100 queries, 50 epochs.

Published by Conditional DETR's authors: 34.8 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, detr, two_rates

model = detr(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
model.num_queries = 100
