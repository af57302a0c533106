"""Co-DETR (K = 1: ATSS) on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

Published by its authors: 48.7 box AP on COCO val2017.
"""

from ms_detr.recipes import atss, co_detr, coco, deformable_detr, plus_plus, three_rates

model = co_detr(plus_plus(deformable_detr()), heads=(atss,))
model.neck.bias = False
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
