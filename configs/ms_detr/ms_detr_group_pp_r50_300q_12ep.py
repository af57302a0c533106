"""MS-DETR with Group DETR's groups on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import coco, deformable_detr, group, ms_detr, plus_plus, three_rates

model = ms_detr(group(plus_plus(deformable_detr())))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
