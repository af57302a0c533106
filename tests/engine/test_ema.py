"""Averages of the weights: their values, their evaluation, their way through checkpoints."""

import json

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from ms_detr.engine import Trainer, read_checkpoint
from ms_detr.engine.ema import EMAHook, average_of
from ms_detr.run_folder import PREDICTIONS

from .test_run import assert_same, curve, weights

AVERAGED = "+train.ema={decay: 0.75}"


class Noisy(nn.Module):
    """Weights that every step pulls elsewhere, and a buffer that counts steps."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch):
        self.steps += 1
        return {"loss": self.linear(torch.randn(4, 5)).square().sum()}


class Recorder(HookBase):
    def __init__(self, model):
        self.model, self.weights = model, []

    def after_step(self):
        self.weights.append([p.detach().double().clone() for p in self.model.parameters()])


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_equals_the_recursion_in_float64(decay):
    torch.manual_seed(0)
    model = Noisy()
    average = average_of(model, decay)
    trainer = Trainer(model, [[]] * 20, torch.optim.SGD(model.parameters(), lr=0.05))
    recorder = Recorder(model)
    hook = EMAHook(average, model, None)
    hook.after_train = lambda: None  # there is no folder to write to
    trainer.register_hooks([recorder, hook])
    trainer.train(0, 20)
    expected = recorder.weights[0]
    for step in recorder.weights[1:]:
        expected = [decay * a + (1 - decay) * w for a, w in zip(expected, step, strict=True)]
    found = [p.detach().double() for p in average.module.parameters()]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert average.module.steps == model.steps == 20


def test_a_run_evaluates_both_and_writes_the_average(train, tmp_path):
    results = train("out", AVERAGED, "train.eval_epochs=1")
    out = tmp_path / "out"
    assert results.keys() == {"bbox", "ema"} and results["ema"].keys() == {"bbox"}
    assert list(curve(out, "ema/bbox/AP")) == list(curve(out, "bbox/AP")) == [2, 5, 9]
    written = json.loads((out / "evaluation_ema" / "results.json").read_text())
    assert written["bbox"]["AP"] == results["ema"]["bbox"]["AP"]
    found = [
        (out / folder / PREDICTIONS).read_text() for folder in ("evaluation", "evaluation_ema")
    ]
    assert found[0] != found[1]
    average = weights(out, "model_ema.pth")
    last = read_checkpoint(out / "model_final.pth")
    assert_same(average, {k.removeprefix("module."): v for k, v in last["ema"].items() if "." in k})
    assert not torch.equal(average["class_head.weight"], last["model"]["class_head.weight"])
    # The file is one of weights as any other.
    alone = train("out", f"train.init_checkpoint={out}/model_ema.pth", "--eval-only")
    assert alone["bbox"]["AP"] == pytest.approx(results["ema"]["bbox"]["AP"])
    # The weights themselves are those of a run without averages.
    train("plain")
    assert_same(weights(out), weights(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "model_ema.pth").exists()


def test_resumed_averages_are_those_of_the_unbroken_run(train, tmp_path):
    train("whole", AVERAGED)
    with pytest.raises(FloatingPointError):
        train("broken", AVERAGED, "model.poison=3", "train.checkpoint_epochs=0.34")
    train("broken", AVERAGED, "--resume")
    assert_same(
        weights(tmp_path / "broken", "model_ema.pth"), weights(tmp_path / "whole", "model_ema.pth")
    )


def test_averages_may_begin_with_a_resumed_run(train, tmp_path):
    """Of the first step on; a checkpoint without them is no error."""
    train("out", "train.max_iter=3")
    train("out", "--resume", "+train.ema={decay: 0.0}")
    assert "holds no 'ema', which starts anew" in (tmp_path / "out" / "log.txt").read_text()
    assert_same(weights(tmp_path / "out", "model_ema.pth"), weights(tmp_path / "out"))


@pytest.mark.parametrize("decay", ["1.0", "-0.1", "true"])
def test_decays_out_of_range(train, decay):
    with pytest.raises(ValueError, match=r"train\.ema\.decay must be at least 0 and below 1"):
        train("out", f"+train.ema={{decay: {decay}}}")


def test_averages_of_no_step_are_the_weights(train, tmp_path):
    """Asked for when nothing is left to train: not those that the model was built with."""
    train("out", "train.max_iter=3")
    train("out", "--resume", "train.max_iter=3", "+train.ema={decay: 0.9}")
    assert_same(weights(tmp_path / "out", "model_ema.pth"), weights(tmp_path / "out"))


def test_averages_that_a_run_goes_on_without_are_named(train, tmp_path):
    train("out", AVERAGED, "train.max_iter=3")
    train("out", "--resume")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "holds 'ema', which this run goes on without" in log
    assert "goes on without" not in log.replace("holds 'ema', which this run goes on without", "")


def test_a_file_that_cannot_be_written_costs_no_evaluation(train, tmp_path):
    (tmp_path / "out" / "model_ema.pth" / "x").mkdir(parents=True)
    results = train("out", AVERAGED)
    assert results.keys() == {"bbox", "ema"}
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"the average is in {tmp_path}/out/model_final.pth, as 'ema'" in log
    assert "what follows is the evaluation of the weights' average" in log
