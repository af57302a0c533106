"""Co-DINO (K = 2), Swin-L, five feature levels from stride 4 on, 900 queries, 36 epochs.

Published by its authors: 60.0 box AP on COCO val2017.
"""

from ms_detr.recipes import co_dino, coco, deformable_detr, five_scales, swin_large_384, two_rates

model = co_dino(deformable_detr())
model.neck.bias = False
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=36, drop=30, lr=2e-4)
swin_large_384(model, train)
model.backbone.options.drop_path_rate = 0.6
five_scales(model)
