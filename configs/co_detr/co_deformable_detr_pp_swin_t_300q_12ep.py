"""Co-DETR (K = 2) on Deformable DETR++, Swin-T, 300 queries, 12 epochs.

Published by its authors: 51.7 box AP on COCO val2017.
"""

from ms_detr.recipes import co_detr, coco, deformable_detr, plus_plus, swin_tiny, three_rates

model = co_detr(plus_plus(deformable_detr()))
model.neck.bias = False
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
swin_tiny(model, train)
optimizer.weight_decay = 0.05
