"""MS-DETR whose one-to-one classification is VariFocal loss; one-to-many keeps focal loss."""

from ms_detr.recipes import coco, deformable_detr, ms_detr, three_rates, varifocal

model = ms_detr(varifocal(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
