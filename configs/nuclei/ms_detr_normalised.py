"""MS-DETR with masks on nuclei, with supervisions that weigh alike, see docs/evidence.md."""

from ms_detr.recipes import normalised_ms_detr
from ms_detr.recipes.micrographs import nuclei

model, dataloader, train, optimizer, lr_multiplier = nuclei(
    "two_stage", "ms_detr_normalised", normalised_ms_detr
)
