"""MS-DETR and Co-DETR (K = 2) on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import co_detr, coco, deformable_detr, ms_detr, plus_plus, three_rates

model = ms_detr(co_detr(plus_plus(deformable_detr())))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
