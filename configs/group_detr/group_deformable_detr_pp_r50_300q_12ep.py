"""Group DETR with 11 groups on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

The further groups take the proposals that follow the first 300. No figure is published for this
composition.
"""

from ms_detr.recipes import coco, deformable_detr, group, plus_plus, three_rates

model = group(plus_plus(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
