"""MS-DETR on DINO, ResNet-50, five feature levels from stride 4 on, 900 queries, 12 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import coco, deformable_detr, dino, five_scales, ms_detr, two_rates

model = ms_detr(five_scales(dino(deformable_detr())))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
