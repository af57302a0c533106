"""Blood cells: MS-DETR, published weights, on Deformable DETR++ with IA-BCE."""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "ia_bce", "family/ms_detr_ia_bce", ms_detr
)
