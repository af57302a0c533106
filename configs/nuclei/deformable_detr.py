"""The baseline with masks on nuclei: Deformable DETR in two stages, small, pretrained backbone."""

from ms_detr.recipes.micrographs import nuclei

model, dataloader, train, optimizer, lr_multiplier = nuclei("two_stage", "deformable_detr")
