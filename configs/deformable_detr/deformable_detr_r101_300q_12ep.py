"""Deformable DETR, two-stage with box refinement, ResNet-101, 300 queries, 12 epochs."""

from ms_detr.recipes import coco, deformable_detr, resnet101, three_rates

model = deformable_detr()
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
resnet101(model, train)
