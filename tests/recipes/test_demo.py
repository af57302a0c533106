"""The demo's recipes."""

import pytest
import torch
from torch.nn import functional

from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError
from ms_detr.recipes.demo import demo


def test_a_method_that_is_not_there():
    with pytest.raises(
        ConfigError, match="no method 'ms_detr_dino'; choose from two_stage, .*dino"
    ):
        demo("ms_detr_dino")


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_of_another_size(split, demo_dataset):
    """At 64 pixels instead of the dataset's 128, boxes are half as long, pictures the same."""
    data = f"dataloader.{split}.dataset"
    place = [
        f"{data}.name=demo_of_two_sizes_{split}",
        f"{data}.images={demo_dataset / 'train'}",
        f"{data}.annotations={demo_dataset / 'annotations' / 'train.json'}",
    ]
    whole, half = (
        next(iter(build(load("demo/ms_detr.py", [*place, *size]), f"dataloader.{split}")))
        for size in ([], ["dataloader.short_edge=64"])
    )
    for a, b in zip(whole, half, strict=True):
        assert a["image"].shape[1:] == (128, 128) and b["image"].shape[1:] == (64, 64)
        assert (functional.avg_pool2d(a["image"].float(), 2) - b["image"]).abs().mean() < 8
        if split == "train":
            boxes, halves = (x["instances"].gt_boxes.tensor for x in (a, b))
            torch.testing.assert_close(boxes / 2, halves)
