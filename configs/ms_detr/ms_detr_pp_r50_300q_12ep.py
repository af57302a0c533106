"""MS-DETR on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

Published by its authors: 48.8 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, ms_detr, plus_plus, three_rates

model = ms_detr(plus_plus(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
