"""MS-DETR on DINO, ResNet-50, four feature levels, 900 queries, 12 epochs."""

from ms_detr.recipes import coco, deformable_detr, dino, ms_detr, two_rates

model = ms_detr(dino(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
