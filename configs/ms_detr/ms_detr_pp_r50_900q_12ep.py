"""MS-DETR on Deformable DETR++, ResNet-50, 900 queries, 12 epochs.

Published by its authors: 50.0 box AP on COCO val2017, with the index merge that its authors used
for this result: model.criterion.terms.o2m.assigner is MergedTopK.
"""

from ms_detr.recipes import coco, deformable_detr, ms_detr, plus_plus, three_rates
from ms_detr.supervision import MergedTopK

model = ms_detr(plus_plus(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
model.num_queries = 900
model.postprocess.top_k = 300
model.criterion.terms.o2m.assigner._target_ = MergedTopK
