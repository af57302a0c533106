"""DAB-DETR, ResNet-50, DC5, 300 queries, 50 epochs.

Published by detrex, which also trains res2: 44.6 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, dab, deformable_detr, two_rates

model = dab(deformable_detr(), dilated=True)
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
