"""AdamW as Deformable DETR's family uses it: weight decay on everything, three learning rates."""

import torch
from detectron2.config import LazyCall as L

from ms_detr.engine import parameter_groups

optimizer = L(torch.optim.AdamW)(
    params=L(parameter_groups)(
        base_lr="${optimizer.lr}",
        lr_factors={"backbone": 0.1, "sampling_offsets": 0.1, "reference_points": 0.1},
    ),
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)
