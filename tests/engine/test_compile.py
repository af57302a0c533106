"""Parts of a model, compiled: the same numbers, the same names, no new code for other sizes."""

import copy
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from ms_detr.engine.compilation import check_compiler, compile_parts
from ms_detr.engine.memory import PARTS, layers_of, recompute
from ms_detr.errors import ConfigError

from ..modeling.support import ROOT, make_input, make_model
from .compiled_step import NO_DROPOUT, step


@pytest.fixture(autouse=True)
def afresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counted:
    """A backend that runs what it is given as it is, and counts."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def images(height, width, labels=(1, 0, 3)):
    return [make_input(height, width, labels=labels, seed=height), make_input(80, 64, seed=2)]


def test_one_graph_for_each_kind_of_layer_whatever_the_sizes(caplog):
    """Traced alone, which needs no compiler; a break would make more graphs."""
    model = make_model(*NO_DROPOUT)
    compiled = copy.deepcopy(model)
    backend = Counted()
    with caplog.at_level(logging.INFO):
        compile_parts(compiled, {}, backend=backend)
    assert "train.compile: encoder, decoder, backbone are compiled" in caplog.text
    assert "train.compile leaves out criterion: matching happens on the host" in caplog.text
    assert "train.compile leaves out neck: a small part of a step" in caplog.text
    assert list(compiled.state_dict()) == list(model.state_dict())
    for size in ((64, 96), (96, 64), (80, 112)):
        batch = images(*size)
        found, expected = step(compiled, batch), step(model, batch)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert backend.graphs == 3
    average = copy.deepcopy(compiled)
    assert average.backbone._compiled_call_impl is None  # evaluated as it is


def test_a_recomputed_backbone_is_left_out(caplog):
    model = make_model(*NO_DROPOUT)
    recompute(model, dict.fromkeys(PARTS, True))
    with caplog.at_level(logging.INFO):
        compile_parts(model, {"backbone": True}, backend="eager")
    assert "train.compile leaves out backbone: its blocks are of more kinds" in caplog.text
    assert all(layer._compiled_call_impl for layer in layers_of(model, "decoder"))
    assert model.backbone._compiled_call_impl is None


def test_nothing_to_compile():
    with pytest.raises(ConfigError, match=r"train\.compile=true, but nothing of the model is"):
        compile_parts(nn.Linear(2, 2), {})


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"train\.compile=true needs a C\+\+ compiler on the CPU"):
        check_compiler(torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package triton"):
        check_compiler(torch.device("cuda"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_by_inductor_it_is_the_same_within_rounding(train, tmp_path):
    model = make_model(*NO_DROPOUT)
    compiled, both = copy.deepcopy(model), copy.deepcopy(model)
    compile_parts(compiled, {})
    recompute(both, dict.fromkeys(PARTS, True))
    compile_parts(both, {"backbone": True})
    for size in ((64, 96), (80, 112)):
        batch = images(*size)
        expected = step(model, batch)
        for other in (compiled, both):
            found = step(other, batch)
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    # A run writes what a plain one reads.
    train("compiled", "+train.compile=true", "train.max_iter=3", "model.batch_statistics=true")
    out = tmp_path / "compiled"
    train("plain", "train.max_iter=3", "model.batch_statistics=true")
    ours, theirs = (
        torch.load(folder / "model_final.pth", weights_only=False)["model"]
        for folder in (out, tmp_path / "plain")
    )
    assert list(ours) == list(theirs)
    train("evaluated", f"train.init_checkpoint={out}/model_final.pth", "--eval-only")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_dropout_of_a_compiled_layer_is_the_same_when_it_is_repeated():
    model = make_model("model.dropout=0.3")
    compiled, both = copy.deepcopy(model), copy.deepcopy(model)
    compile_parts(compiled, {})
    recompute(both, {"encoder": True, "decoder": True})
    compile_parts(both, {})
    found, expected = step(both, images(64, 96)), step(compiled, images(64, 96))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes(tmp_path):
    words = [str(tmp_path / name) for name in ("meeting", "out")]
    command = [sys.executable, "-m", "tests.engine.compiled_step"]
    started = [subprocess.Popen([*command, str(rank), *words], cwd=ROOT) for rank in range(2)]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    for plain, compiled in torch.load(words[1]):
        assert plain.keys() == compiled.keys()
        for name in plain:
            torch.testing.assert_close(compiled[name], plain[name], rtol=1e-3, atol=1e-5)
