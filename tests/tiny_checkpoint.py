"""Checkpoints of small models, as a training leaves them, without the training."""

from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from ms_detr.config import describe, load
from ms_detr.data import ResizeShortestEdge
from ms_detr.engine.archive import write_checkpoint

SMALL = [
    "model.backbone.widths=[8,16,24,32]",
    "model.backbone.blocks=1",
    "model.neck.in_channels={res2:16,res3:24,res4:32}",
    "model.num_queries=12",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
]
# DETR's, of one map: the smallest graph of all.
DENSE = [
    *(text for text in SMALL if "in_channels" not in text and "num_queries" not in text),
    "model.neck.in_channels={res2:16}",
    "model.num_queries=100",
]
CLASSES = ("ellipse", "rectangle", "triangle", "star", "plus", "ring")


def write_tiny(path: Path, masks: bool = False, resized: bool = False, dense: bool = False) -> Path:
    """Write a checkpoint of the demo's classes, of random weights that tell images apart.

    Args:
        resized: images are brought to one length of their sides; the demo leaves them as they are.
        dense: of DETR instead of MS-DETR.
    """
    config, overrides = "demo/ms_detr.py", SMALL
    if masks:
        config, overrides = "demo/ms_detr_masks.py", [*SMALL, "model.masks.in_channels={stem:8}"]
    if dense:
        config, overrides = "demo/family/detr.py", DENSE
    cfg = load(config, overrides)
    if resized:
        resize = L(ResizeShortestEdge)(short_edge_length=160, max_size=320)
        cfg.dataloader.test.mapper.augmentations = [resize]
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    content = {"model": model.state_dict(), "config": describe(config, overrides, cfg)}
    write_checkpoint(path, {**content, "classes": list(CLASSES)})
    return path
