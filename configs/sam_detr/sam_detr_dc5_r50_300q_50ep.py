"""SAM-DETR, ResNet-50, DC5, 300 queries, 50 epochs.

Published by its authors: 43.3 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, deformable_detr, sam_detr, two_rates

model = sam_detr(deformable_detr(), dilated=True, group_norm=False)
dataloader = coco()
dataloader.train.total_batch_size = 8
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
train.lr_batch_size = 8
