"""Co-DINO (K = 2) with large-scale jitter, Swin-L, five feature levels, 900 queries, 36 epochs.

Published by its authors: 60.7 box AP on COCO val2017.
Its training copies and pastes objects, too, and its test images are padded to the square.
"""

from ms_detr.recipes import (
    co_dino,
    coco_lsj,
    deformable_detr,
    five_scales,
    swin_large_384,
    two_rates,
)

model = co_dino(deformable_detr())
model.neck.bias = False
dataloader = coco_lsj(masks=False, pad_value=114.0, test_size=1024)
train, optimizer, lr_multiplier = two_rates(epochs=36, drop=30, lr=2e-4)
swin_large_384(model, train)
model.backbone.options.drop_path_rate = 0.5
five_scales(model)
