"""MS-DETR with DETR's mask head at stride 16, as its published code holds it without running.

Mr. DETR, its descendant, runs such a head: masks of the last layer, matched on class and box;
published there for another supervision: 36.0 mask AP (12 epochs, COCO val2017).
"""

from ..common.data.coco import dataloader
from ..common.models.masks import attention, with_masks
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = with_masks(model, attention(), mask_cost=False)
model.criterion.terms.o2o.losses.dice.weight = 2.0
dataloader.masks = True
train.output_dir = "output/ms_detr_attention_masks_r50_300q_12ep"
