"""A config: MS-DETR as released, so small that tests can build it many times."""

from detectron2.config import LazyCall as L

from ms_detr.backbones import small_resnet
from ms_detr.recipes import deformable_detr, ms_detr

model = ms_detr(deformable_detr())
model.num_classes = 6
model.num_queries = 12
model.embed_dim = 64
model.num_heads = 4
model.feedforward_dim = 24
model.encoder.num_layers = 1
model.decoder.num_layers = 2
model.backbone = L(small_resnet)(widths=(8, 16, 24, 32), blocks=1, norm="BN")
model.neck.in_channels = dict(res2=16, res3=24, res4=32)
