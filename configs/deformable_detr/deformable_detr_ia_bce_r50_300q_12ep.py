"""Deformable DETR, two-stage, with Align-DETR's IA-BCE; one-to-one matching in all layers."""

from ms_detr.recipes import coco, deformable_detr, ia_bce, three_rates

model = ia_bce(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
