"""MS-DETR on SAM-DETR, ResNet-50, 300 queries, 50 epochs."""

from ms_detr.recipes import coco, deformable_detr, ms_detr, sam_detr, two_rates

model = ms_detr(sam_detr(deformable_detr(), group_norm=False))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
