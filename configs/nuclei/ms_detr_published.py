"""MS-DETR with masks on nuclei, with the published weights of its losses."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import nuclei

model, dataloader, train, optimizer, lr_multiplier = nuclei(
    "two_stage", "ms_detr_published", ms_detr
)
