"""SAM-DETR, ResNet-50, DC5, 300 queries, 12 epochs.

Published by its authors: 38.3 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, sam_detr, two_rates

model = sam_detr(deformable_detr(), dilated=True)
dataloader = coco()
dataloader.train.total_batch_size = 8
train, optimizer, lr_multiplier = two_rates(epochs=12, drop=10)
train.lr_batch_size = 8
