"""Co-DETR (K = 2) on Deformable DETR++, Swin-L, 900 queries, 36 epochs.

Published by its authors: 58.5 box AP on COCO val2017.
"""

from ms_detr.recipes import co_detr, coco, deformable_detr, plus_plus, swin_large_384, three_rates

model = co_detr(plus_plus(deformable_detr()))
model.neck.bias = False
model.num_queries = 900
model.postprocess.top_k = 300
dataloader = coco()
train, optimizer, lr_multiplier = three_rates(epochs=36, drop=30)
swin_large_384(model, train)
model.backbone.options.drop_path_rate = 0.6
optimizer.weight_decay = 0.05
