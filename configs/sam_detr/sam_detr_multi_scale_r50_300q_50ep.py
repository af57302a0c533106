"""SAM-DETR, three feature levels, ResNet-50, 300 queries, 50 epochs.

Published by its authors: 46.1 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, sam_detr_multi_scale, two_rates

model = sam_detr_multi_scale(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
