"""MS-DETR on nuclei whose one-to-many supervision has masks, too; published weights."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import nuclei

model, dataloader, train, optimizer, lr_multiplier = nuclei(
    "two_stage", "ms_detr_published_o2m_masks", ms_detr, mask_terms=("o2o", "o2m")
)
