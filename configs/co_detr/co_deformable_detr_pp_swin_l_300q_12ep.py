"""Co-DETR (K = 2) on Deformable DETR++, Swin-L, 300 queries, 12 epochs.

Published by its authors: 56.9 box AP on COCO val2017.
"""

from ms_detr.recipes import co_detr, coco, deformable_detr, plus_plus, swin_large_384, three_rates

model = co_detr(plus_plus(deformable_detr()))
model.neck.bias = False
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
swin_large_384(model, train)
model.backbone.options.drop_path_rate = 0.3
optimizer.weight_decay = 0.05
