"""SMCA, ResNet-50, DC5, 300 queries, 50 epochs."""

from ms_detr.recipes import coco, deformable_detr, smca, two_rates

model = smca(deformable_detr(), dilated=True)
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
