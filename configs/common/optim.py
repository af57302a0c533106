"""AdamW as the family uses it: weight decay on everything, the backbone at a lower rate."""

import torch
from detectron2.config import LazyCall as L

from ms_detr.engine import parameter_groups


def adamw(lr, **lr_factors):
    return L(torch.optim.AdamW)(
        params=L(parameter_groups)(base_lr="${optimizer.lr}", lr_factors=lr_factors),
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=1e-4,
    )


# Deformable DETR and what builds on its code.
optimizer = adamw(2e-4, backbone=0.1, sampling_offsets=0.1)
# The same with learned queries, whose reference points are learned too: see `one_stage`.
learned_points = adamw(2e-4, backbone=0.1, sampling_offsets=0.1, reference_points=0.1)
# DETR, Conditional DETR, DAB-DETR, DINO.
two_rates = adamw(1e-4, backbone=0.1)
