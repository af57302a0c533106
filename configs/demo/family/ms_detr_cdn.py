"""Small: MS-DETR on Deformable DETR++ with DINO's contrastive denoising."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("cdn", mixed=True)
