"""SAM-DETR, ResNet-50, 300 queries, 50 epochs.

Published by its authors: 39.8 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, sam_detr, two_rates

model = sam_detr(deformable_detr(), group_norm=False)
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
