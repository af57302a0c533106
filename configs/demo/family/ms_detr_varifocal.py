"""Small: MS-DETR on Deformable DETR++ with VariFocal loss."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("ms_detr_varifocal")
