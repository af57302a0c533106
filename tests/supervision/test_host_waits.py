"""Matching and losses let the host wait once a step: seen here without a GPU."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ms_detr.benchmarks.criterion import build_criterion, count_waits, event_names, make_scene
from ms_detr.config import load
from ms_detr.modeling import ClassHead
from ms_detr.structures import Predictions
from ms_detr.supervision import Criterion, Terms
from ms_detr.variants.detr import SoftmaxHead

from .support import make_images, make_predictions, make_targets

# What hands a value, or a size that hangs on values, to the host.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "bincount"}


class Watch(TorchDispatchMode):
    """Count operators that let the host wait, and copies from a device to the host."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if name in WAITING:
            self.seen[name] += 1
        if name in ("index", "index_put", "index_put_"):
            self.seen["bool index"] += any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in ("_to_copy", "copy_") and out.device.type == "cpu":
            self.seen["copy to host"] += any(x.device.type != "cpu" for x in tensors)
        return out

    def found(self):
        return {name: count for name, count in self.seen.items() if count}


def step(criterion, predict, targets):
    sum(criterion(predict(), targets).values()).backward()


@pytest.mark.parametrize(
    ("rule", "expected"), [("paper", {}), ("released", {"_local_scalar_dense": 1})]
)
def test_nothing_waits_for_values(rule, expected):
    """The one scalar of the released rule is a seed, drawn on the host."""
    predict, targets = make_scene(2, 40, 5, 40)
    with Watch() as watch:
        step(build_criterion(rule), predict, targets)
    assert watch.found() == expected


@pytest.mark.parametrize(
    ("config", "head"),
    [
        ("align_detr/align_detr_r50_4scale_12ep", ClassHead),
        ("detr/detr_r50_100q_50ep", SoftmaxHead),
    ],
)
def test_the_family_waits_for_no_values(config, head):
    rng = np.random.default_rng(0)
    images = make_images(rng, (3, 0, 2))
    made, targets = make_predictions(rng, images, 20), make_targets(images)
    made = replace(made, probability=head.probability)
    made.logits.requires_grad_()
    term = instantiate(load(f"configs/{config}.py").model.criterion.terms.o2o)
    with Watch() as watch:
        step(Criterion(Terms(o2o=term)), lambda: Predictions({"decoder": made}), targets)
    assert watch.found() == {}
    assert made.logits.grad.any()


def test_one_copy_to_the_host(monkeypatch):
    """On a make-believe GPU, whose tensors have no values: reading one would be an error."""
    monkeypatch.setattr(torch.Tensor, "numpy", lambda x: np.zeros(x.shape))
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        predict, targets = make_scene(2, 40, 5, 40, "cuda")
        watch.seen.clear()
        losses = build_criterion("paper")(predict(), targets)
        assert all(loss.device.type == "cuda" for loss in losses.values())
    assert watch.found() == {"copy to host": 1}


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x[x > 0], "bool index"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
    ],
)
def test_the_watch_sees(operation, name):
    with Watch() as watch:
        operation(torch.ones(3))
    assert watch.found().keys() >= {name}


def test_waits_are_counted_by_the_profilers_names():
    names = ["cudaStreamSynchronize", "cudaLaunchKernel", "Memcpy DtoH (Device -> Pageable)"]
    names += ["cudaEventSynchronize", "Memcpy HtoD (Pageable -> Device)", "cudaDeviceSynchronize"]
    assert count_waits(names) == {"host waits": 2, "copies to host": 1}
    names = event_names(lambda: torch.ones(3).add(1))
    assert "aten::add" in names
    assert count_waits(names) == {"host waits": 0, "copies to host": 0}
