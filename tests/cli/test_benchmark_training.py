"""`ms-detr benchmark train`: each stage has its own time, and no other's."""

import json
import time

import pytest
import torch
from torch import nn

from ms_detr.benchmarks.training import STAGES, MadeImages, TrainingRun, compare_training
from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError
from ms_detr.modeling import Encoder
from ms_detr.supervision import FocalLoss, HungarianAssigner

CONFIG = "demo/deformable_detr.py"
SMALL = (
    "train.device=cpu",
    "dataloader.train.total_batch_size=2",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
)
NAP = 0.15


def late(function):
    """The same function, but later."""

    def call(*args, **options):
        time.sleep(NAP)
        return function(*args, **options)

    return call


class LateGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(NAP)
        return gradient


PLACES = {
    "data": (MadeImages, "batches", lambda batches: lambda *args: _naps(batches(*args))),
    "forward": (Encoder, "forward", late),
    "matching": (HungarianAssigner, "host_costs", late),
    "losses": (FocalLoss, "divisor", late),
    "backward": (
        Encoder,
        "forward",
        lambda forward: lambda *args: _with_late_gradient(forward(*args)),
    ),
    "optimizer": (torch.optim.AdamW, "step", late),
    "other": (nn.utils, "clip_grads_with_norm_", late),
}


def _naps(batches):
    for batch in batches:
        time.sleep(NAP)
        yield batch


def _with_late_gradient(memory):
    return memory.__class__(**{**vars(memory), "tokens": LateGradient.apply(memory.tokens)})


@pytest.mark.parametrize("stage", PLACES)
def test_a_stage_has_what_happens_in_it(stage, monkeypatch):
    place, name, change = PLACES[stage]
    monkeypatch.setattr(place, name, change(getattr(place, name)))
    (row,) = compare_training(
        [TrainingRun("one", CONFIG, SMALL)], MadeImages(64, 64, 2), rounds=1, steps=2
    )
    stages = {name: row[name] for name in (*STAGES, "other")}
    assert stages[stage] >= NAP * 0.99
    assert row["step s"] == pytest.approx(sum(stages.values()))
    assert row["images/s"] == pytest.approx(2 / row["step s"])
    assert all(value >= 0 for value in stages.values())


def test_the_memory_of_more_images_is_more():
    runs = [
        TrainingRun(str(count), CONFIG, (*SMALL, f"dataloader.train.total_batch_size={count}"))
        for count in (1, 8)
    ]
    small, large = compare_training(runs, MadeImages(128, 128, 2), rounds=1, steps=1)
    assert small["ratio"] == small["memory ratio"] == 1
    assert large["memory MB"] > small["memory MB"] + 20
    assert large["memory ratio"] == large["memory MB"] / small["memory MB"]


@pytest.mark.slow
def test_two_processes_tell_what_the_exchange_costs(capfd):
    words = ["benchmark", "train", "--json", "--rounds", "1", "--steps", "1", "--num-gpus", "2"]
    words += ["--run", "one", CONFIG, *SMALL, "--run", "two", "demo/ms_detr.py", *SMALL]
    assert main([*words, "--size", "64", "64"]) == 0
    one, two = json.loads(capfd.readouterr().out)
    assert (one["run"], two["run"]) == ("one", "two")
    for row, config in ((one, CONFIG), (two, "demo/ms_detr.py")):
        assert row["communication"] < row["step s"] == pytest.approx(2 / row["images/s"])
        model = build(load(config, SMALL), "model")
        learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert row["gradients MB"] == pytest.approx(4e-6 * learnt)


def test_the_real_loader_is_read(overrides, capsys):
    words = ["benchmark", "train", "--json", "--rounds", "1", "--steps", "1"]
    assert main([*words, "--run", "one", "demo/ms_detr.py", *overrides]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["data"] > 0 and not {"communication", "gradients MB"} & row.keys()


def test_what_cannot_be_measured(capsys):
    with pytest.raises(ConfigError, match="images without masks, which two learns"):
        compare_training(
            [TrainingRun("two", "demo/ms_detr_masks.py", SMALL)], MadeImages(64, 64, 2), 1, 1
        )
    parts = [TrainingRun("parts", CONFIG, (*SMALL, "train.accumulate=3"))]
    with pytest.raises(ConfigError, match=r"accumulate=3 splits the 2 images of a process"):
        compare_training(parts, MadeImages(64, 64, 2), 1, 1)
    words = ["benchmark", "train", "--run", "one"]
    assert main(words) == 2
    both = ["--run", "a", CONFIG, "train.device=cpu", "--run", "b", CONFIG, "train.device=auto"]
    assert main(["benchmark", "train", *both]) == 2
    capsys.readouterr()
    twice = ["--run", "a", CONFIG, "--run", "a", CONFIG, "model.num_queries=20"]
    assert main(["benchmark", "train", *twice]) == 2
    assert "every run needs a name of its own, got ['a', 'a']" in capsys.readouterr().err
