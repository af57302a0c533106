"""MS-DETR on Align-DETR, ResNet-50, four feature levels, 900 queries, 12 epochs.

One-to-many supervision keeps its own assignment and focal loss. No figure is published for this
composition.
"""

from ms_detr.recipes import align, coco, deformable_detr, ms_detr, two_rates

model = ms_detr(align(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
