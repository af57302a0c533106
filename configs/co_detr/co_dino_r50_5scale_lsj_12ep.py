"""Co-DINO (K = 2) with large-scale jitter, ResNet-50, five feature levels, 900 queries, 12 epochs.

Published by its authors: 52.1 box AP on COCO val2017.
Its training copies and pastes objects, too, and its test images are padded to the square.
"""

from ms_detr.recipes import co_dino, coco_lsj, deformable_detr, five_scales, two_rates

model = five_scales(co_dino(deformable_detr()))
model.neck.bias = False
dataloader = coco_lsj(masks=False, pad_value=114.0, test_size=1024)
train, optimizer, lr_multiplier = two_rates(lr=2e-4)
