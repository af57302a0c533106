"""Group DETR on Conditional DETR, its first home: 11 groups, ResNet-50, 300 queries, 50 epochs.

No figure that we could verify is published for 50 epochs.
"""

from ms_detr.recipes import coco, conditional, deformable_detr, group, two_rates

model = group(conditional(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
