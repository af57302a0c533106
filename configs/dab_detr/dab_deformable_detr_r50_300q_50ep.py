"""DAB-Deformable-DETR, ResNet-50, 300 queries, 50 epochs.

Published by detrex, which also trains res2: 49.0 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, dab_deformable, deformable_detr, two_rates

model = dab_deformable(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
