"""Small detectors from the shipped configs, and images for them."""

from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from omegaconf import DictConfig

from ms_detr.config import load
from ms_detr.overrides import apply

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    f"configs/{file}"
    for file in (path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py"))
)
MS_DETR = "configs/ms_detr/ms_detr_r50_300q_12ep.py"
BASELINE = "configs/deformable_detr/deformable_detr_r50_300q_12ep.py"
SMALL = "tests/modeling/small_ms_detr.py"
# What makes any config small; backbone and composition stay.
SMALLER = (
    "model.embed_dim=64",
    "model.num_heads=4",
    "model.feedforward_dim=24",
    "model.num_queries=12",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
)


def rooted(model, overrides=SMALLER):
    """A composed model where its links resolve, with overrides."""
    cfg = DictConfig({"model": model}, flags={"allow_objects": True})
    apply(cfg, overrides)
    return cfg.model


def make_model(*overrides, config=SMALL, seed=0):
    """A model in training mode."""
    torch.manual_seed(seed)
    return instantiate(load(ROOT / config, overrides).model)


def trained_parameters(config):
    """How many a config of `configs/` trains, with 91 classes."""
    with torch.device("meta"):
        model = instantiate(load(ROOT / "configs" / config, ["model.num_classes=91"]).model)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def make_input(height, width, labels=(), boxes=None, seed=0):
    """One of Detectron2's input dicts; `boxes` are (x1, y1, x2, y2) in pixels, masks fill them."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    instances = Instances((height, width))
    if boxes is None:
        boxes = [(4 + 8 * i, 6, 20 + 8 * i, 30 + 4 * i) for i in range(len(labels))]
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    filled = [(x1 < x) & (x < x2) & (y1 < y) & (y < y2) for x1, y1, x2, y2 in boxes]
    masks = torch.stack(filled) if filled else torch.zeros(0, height, width)
    instances.gt_masks = BitMasks(masks)
    return {"image": image, "instances": instances, "file_name": f"{seed}.png"}


def make_batch():
    """Images of different sizes, one of them without objects."""
    return [
        make_input(64, 96, labels=(1, 0, 3), seed=1),
        make_input(80, 64, seed=2),
        make_input(48, 56, labels=(5,), seed=3),
    ]
