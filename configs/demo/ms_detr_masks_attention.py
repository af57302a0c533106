"""The demo's MS-DETR with DETR's mask head, at the resolution of the stem."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, small_masks, train
from ..common.models.masks import attention, with_prior
from ..common.models.ms_detr import model

model = shrink(model)
model.criterion.terms.o2o.losses["class"].weight = 2.0
model.criterion.terms.o2m.weight = 0.5
branch = with_prior(attention(stride=1, res3=96, res2=48, stem=24))
model = small_masks(model, branch, mask_cost=False)
dataloader.masks = True
train.output_dir = "output/demo/ms_detr_masks_attention"
