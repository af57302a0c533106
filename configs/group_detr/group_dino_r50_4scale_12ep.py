"""Group DETR on DINO, 11 groups, ResNet-50, four feature levels, 900 queries, 12 epochs.

Every group selects its queries by itself; contrastive denoising sees the first. PaddleDetection
published 49.6 box AP on COCO val2017 for its composition of the two.
"""

from ms_detr.recipes import coco, deformable_detr, dino, group_two_stage, two_rates

model = group_two_stage(dino(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates()
