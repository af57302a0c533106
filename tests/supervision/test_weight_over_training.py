"""A term whose weight changes over the training."""

from dataclasses import replace

import pytest
import torch
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    StepParamScheduler,
    StepWithFixedGammaParamScheduler,
)

from ms_detr.errors import ConfigError
from ms_detr.structures import Step
from ms_detr.supervision import (
    Criterion,
    HungarianAssigner,
    L1Loss,
    Losses,
    SupervisionTerm,
    Terms,
)

from .support import make_targets
from .test_criterion import scene

COUNTS = (3, 0, 2)


def losses(weight, done=None):
    images, predictions = scene(COUNTS)
    targets = make_targets(images)
    if done is not None:
        step = Step(sum(COUNTS), sum(COUNTS), max(COUNTS), len(COUNTS), done=done)
        targets = replace(targets, step=step)
    term = SupervisionTerm("decoder", HungarianAssigner(), Losses(bbox=L1Loss(5.0)), weight)
    return Criterion(Terms(o2o=term))(predictions, targets)


@pytest.mark.parametrize("done", [0.0, 0.25, 0.9])
def test_it_is_the_schedulers_value(done):
    found, constant = losses(LinearParamScheduler(1.0, 0.0), done), losses(1.0)
    assert found.keys() == constant.keys() and all(loss > 0 for loss in constant.values())
    for name, loss in constant.items():
        torch.testing.assert_close(found[name], loss * (1 - done))


def test_a_constant_weight_needs_no_step():
    assert losses(2.0, 0.7) == losses(2.0)


def test_nobody_tells_how_far_the_training_is():
    with pytest.raises(ConfigError, match="'decoder' changes over the training.*train_net.py"):
        losses(LinearParamScheduler(1.0, 0.0))


@pytest.mark.parametrize(
    "weight",
    [
        LinearParamScheduler(1.0, -0.5),
        MultiStepParamScheduler([1.0, -1.0, 1.0], num_updates=90, milestones=[30, 60]),
    ],
)
def test_a_weight_that_becomes_negative(weight):
    with pytest.raises(ConfigError, match="can't be negative, got -"):
        losses(weight, 0.0)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (ConstantParamScheduler(0.3), 0.3),
        (StepParamScheduler(2.0, [4.0, 3.0]), 3.0),
        (StepWithFixedGammaParamScheduler(1.0, 2, 0.5, 100), 0.5),
    ],
)
def test_schedulers_that_have_no_value_at_the_end(weight, expected):
    for name, loss in losses(1.0).items():
        torch.testing.assert_close(losses(weight, 0.5)[name], loss * expected)
