"""Deformable DETR, two-stage, with instance masks by dot product, ResNet-50, 12 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import coco, deformable_detr, three_rates, with_masks

model = with_masks(deformable_detr())
dataloader = coco(masks=True)
train, optimizer, lr_multiplier = three_rates()
