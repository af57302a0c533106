"""SAM-DETR with SMCA, ResNet-50, 300 queries, 12 epochs.

Published by its authors: 36.0 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, gaussian_modulation, sam_detr, two_rates

model = gaussian_modulation(sam_detr(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=12, drop=10)
