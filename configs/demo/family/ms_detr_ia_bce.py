"""Small: MS-DETR on Deformable DETR++ with Align-DETR's IA-BCE."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("ms_detr_ia_bce")
