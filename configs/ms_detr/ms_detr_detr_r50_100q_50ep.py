"""MS-DETR on DETR, ResNet-50, 100 queries, 50 epochs."""

from ms_detr.recipes import coco, deformable_detr, detr, ms_detr, two_rates

model = ms_detr(detr(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
model.num_queries = 100
