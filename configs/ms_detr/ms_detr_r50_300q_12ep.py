"""MS-DETR on Deformable DETR, ResNet-50, 300 queries, 12 epochs.

Published by its authors: 47.6 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, ms_detr, three_rates

model = ms_detr(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
