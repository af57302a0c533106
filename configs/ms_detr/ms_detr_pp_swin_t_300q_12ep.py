"""MS-DETR on Deformable DETR++, Swin-T, 300 queries, 12 epochs."""

from ms_detr.recipes import coco, deformable_detr, ms_detr, plus_plus, swin_tiny, three_rates

model = ms_detr(plus_plus(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
swin_tiny(model, train)
