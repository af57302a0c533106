"""SAM-DETR with SMCA, ResNet-50, 300 queries, 50 epochs.

Published by its authors: 41.8 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, gaussian_modulation, sam_detr, two_rates

model = gaussian_modulation(sam_detr(deformable_detr(), group_norm=False))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
