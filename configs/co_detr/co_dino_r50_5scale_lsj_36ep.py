"""Co-DINO (K = 2) with large-scale jitter, ResNet-50, five feature levels, 900 queries, 36 epochs.

Published by its authors: 54.8 box AP on COCO val2017.
"""

from ms_detr.recipes import (
    co_dino,
    coco_lsj,
    copy_paste,
    deformable_detr,
    five_scales,
    square_tests,
    two_rates,
)

model = five_scales(co_dino(deformable_detr()))
model.neck.bias = False
dataloader = square_tests(copy_paste(coco_lsj(masks=False, pad_value=114.0)))
train, optimizer, lr_multiplier = two_rates(epochs=36, drop=30, lr=2e-4)
