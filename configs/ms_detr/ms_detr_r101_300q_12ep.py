"""MS-DETR on Deformable DETR, ResNet-101, 300 queries, 12 epochs."""

from ms_detr.recipes import coco, deformable_detr, ms_detr, resnet101, three_rates

model = ms_detr(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
resnet101(model, train)
