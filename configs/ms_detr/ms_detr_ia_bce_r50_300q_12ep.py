"""MS-DETR whose one-to-one classification is Align-DETR's IA-BCE; one-to-many keeps focal loss."""

from ms_detr.recipes import coco, deformable_detr, ia_bce, ms_detr, three_rates

model = ms_detr(ia_bce(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
