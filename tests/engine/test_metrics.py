"""Means, sums and progress."""

import json
import re

import pytest
import torch
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.engine.metrics import ProgressPrinter, RunningMean, forget_metrics_from, term_sums


@settings(max_examples=20)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5))
def test_running_mean(steps):
    mean = RunningMean()
    for _ in range(2):  # reading starts anew
        for a, b in steps:
            mean.add({"a": torch.tensor(a), "b": torch.tensor(b, dtype=torch.float64)})
        assert mean.read() == {
            "a": pytest.approx(sum(a for a, _ in steps) / len(steps), abs=1e-5),
            "b": pytest.approx(sum(b for _, b in steps) / len(steps), abs=1e-5),
        }
        assert mean.read() == {}


def test_running_mean_of_other_names_starts_anew():
    mean = RunningMean()
    mean.add({"a": torch.tensor(1.0)})
    mean.add({"a": torch.tensor(2.0), "b": torch.tensor(3.0)})
    assert mean.read() == {"a": 2.0, "b": 3.0}


def test_running_mean_keeps_no_graph():
    mean = RunningMean()
    mean.add({"a": torch.ones(1, requires_grad=True).sum()})
    assert not mean._sum.requires_grad


def test_term_sums():
    losses = {
        "o2o/loss_a/0": 1,
        "o2o/loss_b/11": 2,
        "x.y/loss_a": 4,
        "total_loss": 9,
        "grad_norm": 3,
    }
    assert term_sums(losses) == {"o2o/loss": 3, "x.y/loss": 4}


def test_progress_line(monkeypatch):
    lines = []
    monkeypatch.setattr("ms_detr.engine.metrics.logger.info", lines.append)
    printer = ProgressPrinter(max_iter=100)
    with EventStorage(0) as storage:
        printer.write()
        assert lines == []
        for iteration in range(20):
            storage.iter = iteration
            storage.put_scalars(time=2.0, data_time=0.5)
        storage.put_scalars(
            **{"total_loss": 6.0, "o2o/loss": 4.0, "o2o/loss_class/0": 4.0, "lr": 1e-4},
            smoothing_hint=False,
        )
        printer.write()
        storage.iter = 20
        printer.write()  # the losses are old: the run has failed, or is over
    (line,) = lines
    line = re.sub(r"  mem .*", "", line)
    assert line == "iter 20/100  eta 0:02:40  loss 6  o2o 4  lr 0.0001  2.000 s/iter (data 0.500)"


def test_forget_metrics(tmp_path):
    path = tmp_path / "metrics.json"
    forget_metrics_from(path, 3)
    assert not path.exists()
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) for i in range(5)]
    path.write_text("\n".join(lines) + '\n[1]\n{"iteration": 2, "tot')
    forget_metrics_from(path, 3)
    assert path.read_text() == "\n".join(lines[:3]) + "\n"


def test_the_evaluation_after_a_training_stays(tmp_path):
    """If it has ended there."""
    path = tmp_path / "metrics.json"
    losses = [json.dumps({"iteration": i, "total_loss": 1.0}) for i in range(5)]
    evaluation = json.dumps({"iteration": 3, "bbox/AP": 1.0})
    for before, kept in ((3, True), (2, False)):
        path.write_text("\n".join([*losses[:before], evaluation, *losses[3:]]) + "\n")
        forget_metrics_from(path, 3)
        expected = [*losses[:before], *([evaluation] if kept else [])]
        assert path.read_text().splitlines() == expected
