"""MS-DETR, implementation (d): one-to-many supervision behind self-attention, which comes first."""

from ms_detr.recipes import after_self_attention, coco, deformable_detr, ms_detr, three_rates

model = ms_detr(deformable_detr(), after_self_attention)
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
