"""MS-DETR on Co-DINO (K = 2), ResNet-50, five feature levels, 900 queries, 12 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import co_dino, coco, deformable_detr, five_scales, ms_detr, two_rates

model = ms_detr(five_scales(co_dino(deformable_detr())))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(lr=2e-4)
