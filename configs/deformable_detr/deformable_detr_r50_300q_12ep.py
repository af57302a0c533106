"""The baseline: Deformable DETR, two-stage with box refinement, ResNet-50, 300 queries, 12 epochs.

Published by H-Deformable-DETR's authors for this recipe: 43.7 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, three_rates

model = deformable_detr()
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
