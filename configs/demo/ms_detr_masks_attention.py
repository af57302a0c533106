"""The demo's MS-DETR with DETR's mask head, at the resolution of the stem."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, small_masks, soften, train
from ..common.models.masks import attention, with_prior
from ..common.models.ms_detr import model

branch = with_prior(attention(stride=1, res3=96, res2=48, stem=24))
model = small_masks(soften(shrink(model)), branch, mask_cost=False)
dataloader.masks = True
train.output_dir = "output/demo/ms_detr_masks_attention"
