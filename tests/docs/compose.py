"""Load and build config files with the ms_detr that Python finds; a subprocess of the tests.

Prints where that ms_detr lies, then the number of parameters of each config's model.
"""

import sys

import torch
from detectron2.config import instantiate

import ms_detr
from ms_detr.config import load

print(ms_detr.__file__)
for path in sys.argv[1:]:
    cfg = load(path)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    instantiate(cfg.lr_multiplier)
    instantiate(cfg.dataloader.train.mapper)
    print(path, cfg.train.output_dir, sum(parameter.numel() for parameter in model.parameters()))
