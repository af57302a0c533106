"""MS-DETR on DAB-Deformable-DETR, ResNet-50, 300 queries, 12 epochs."""

from ms_detr.recipes import coco, dab_deformable, deformable_detr, ms_detr, two_rates

model = ms_detr(dab_deformable(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
