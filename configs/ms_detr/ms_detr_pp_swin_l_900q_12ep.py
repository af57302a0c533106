"""MS-DETR on Deformable DETR++, Swin-L, 900 queries, 12 epochs.

Index merge as with ResNet-50 (``ms_detr_pp_r50_900q_12ep.py``).
"""

from ms_detr.recipes import coco, deformable_detr, ms_detr, plus_plus, swin_large, three_rates
from ms_detr.supervision import MergedTopK

model = ms_detr(plus_plus(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
swin_large(model, train)
model.num_queries = 900
model.postprocess.top_k = 300
model.criterion.terms.o2m.assigner._target_ = MergedTopK
