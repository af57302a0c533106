"""MS-DETR with instance masks by dot product, ResNet-50, 300 queries, 12 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import coco, deformable_detr, ms_detr, three_rates, with_masks

model = with_masks(ms_detr(deformable_detr()))
dataloader = coco(masks=True)
train, optimizer, lr_multiplier = three_rates()
