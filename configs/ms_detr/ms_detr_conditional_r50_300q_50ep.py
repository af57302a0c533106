"""MS-DETR on Conditional DETR, ResNet-50, 300 queries, 50 epochs."""

from ms_detr.recipes import coco, conditional, deformable_detr, ms_detr, two_rates

model = ms_detr(conditional(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
