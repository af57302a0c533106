"""Means of checkpoints: values, what stays, what shares, and what doesn't go together."""

import re

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

import ms_detr
from ms_detr.cli import main
from ms_detr.config import describe, load
from ms_detr.engine import read_checkpoint
from ms_detr.engine.archive import write_checkpoint
from tests.engine.test_load_model import CLASSES
from tests.engine.test_predict import KEYS

from .test_safetensors import CONFIG, places


def average(folder, *names, out="mean.pth"):
    assert main(["average", str(folder / out), *(str(folder / name) for name in names)]) == 0
    return read_checkpoint(folder / out)["model"]


def test_values_against_numpy(tmp_path):
    """Large values beside small ones, whose sum float32 would round."""
    rng = np.random.default_rng(0)
    arrays = [
        (rng.normal(size=99) * 10.0 ** rng.integers(-6, 7, 99)).astype(np.float32) for _ in "abc"
    ]
    for number, array in enumerate(arrays):
        tensor = torch.from_numpy(array)
        state = {
            "weight": tensor, "half": tensor.bfloat16(), "batches": torch.tensor(number),
            "frozen": torch.tensor([0.1, 1 / 3], dtype=torch.float64), "flag": torch.tensor(True),
        }  # fmt: skip
        write_checkpoint(tmp_path / f"{number}.pth", {"model": state})
    found = average(tmp_path, "0.pth", "1.pth", "2.pth")
    expected = np.mean(np.stack(arrays).astype(np.float64), 0)
    assert found["weight"].numpy().tobytes() == expected.astype(np.float32).tobytes()
    halves = torch.stack([torch.from_numpy(array).bfloat16().double() for array in arrays])
    assert torch.equal(found["half"], halves.mean(0).bfloat16())
    assert found["batches"] == 2 and found["batches"].dtype == torch.int64
    assert torch.equal(found["frozen"], torch.tensor([0.1, 1 / 3], dtype=torch.float64))
    assert found["flag"].dtype == torch.bool and found["flag"]


@pytest.mark.parametrize("out", ["mean.pth", "mean.safetensors"])
def test_a_model_of_the_average(tmp_path, out):
    """Heads stay shared; classes and config are enough to build it."""
    cfg = load(CONFIG, KEYS)
    models = []
    for number in range(2):
        torch.manual_seed(number)
        models.append(instantiate(cfg.model))
        known = {"classes": CLASSES, "config": describe(CONFIG, KEYS, cfg), "version": "0.0.7"}
        write_checkpoint(tmp_path / f"{number}.pth", {"model": models[-1].state_dict(), **known})
    average(tmp_path, "0.pth", "1.pth", out=out)
    assert read_checkpoint(tmp_path / out)["version"] == "0.0.7"
    found = ms_detr.load_model(tmp_path / out).cpu()
    assert found.class_names == tuple(CLASSES)
    one, other = (model.state_dict() for model in models)
    state = read_checkpoint(tmp_path / out)["model"]
    assert places(state) == places(dict(one))
    for name, tensor in found.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, ((one[name].double() + other[name].double()) / 2).float())


def test_the_newest_of_a_run(train, tmp_path, capsys):
    train("out", "train.checkpoints_to_keep=9", "train.eval_epochs=0")
    out = tmp_path / "out"
    assert main(["average", str(tmp_path / "a.pth"), str(out), "--last", "2"]) == 0
    assert f"of {out}/model_0000005.pth, {out}/model_final.pth\n" in capsys.readouterr().out
    expected = average(out, "model_0000005.pth", "model_final.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert all(torch.equal(found["model"][name], expected[name]) for name in expected)
    assert found["classes"] == ["square", "bar"]
    assert "optimizer" not in found and "iteration" not in found
    train("eval", f"train.init_checkpoint={tmp_path}/a.pth", "--eval-only")
    assert main(["average", str(tmp_path / "b.pth"), str(out), "--last", "4"]) == 2
    assert "holds 3 checkpoints, not 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"a": torch.ones(2), "c": torch.ones(1)}}, r"1 missing \(b\); 1 more \(c\)"),
        ({"model": {"a": torch.ones(3), "b": torch.ones(1)}}, r"1 unlike \(a\)"),
        ({"model": {"a": torch.ones(2).double(), "b": torch.ones(1)}}, r"1 unlike \(a\)"),
        ({"classes": ["two", "one"]}, "1.pth has other classes than .*0.pth"),
        ({"model": {}}, "1.pth holds no weights"),
    ],
)
def test_what_does_not_go_together(tmp_path, capsys, change, message):
    content = {"model": {"a": torch.ones(2), "b": torch.ones(1)}, "classes": ["one", "two"]}
    write_checkpoint(tmp_path / "0.pth", content)
    write_checkpoint(tmp_path / "1.pth", content | change)
    files = [str(tmp_path / name) for name in ("out.pth", "0.pth", "1.pth")]
    assert main(["average", *files]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0.pth"], "two or more different checkpoints"),
        (["0.pth", "0.pth"], "two or more different checkpoints"),
        (["0.pth", "gone.pth"], "gone.pth not found"),
        (["."], "is a folder: say how many checkpoints, --last N"),
        (["0.pth", "0.pth", "--last", "2"], "only files are named"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_checkpoint("0.pth", {"model": {"a": torch.ones(2)}})
    assert main(["average", "out.pth", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["average", "convert"])
@pytest.mark.parametrize("target", ["new.pkl", "new.PKL", "new.bin", "new"])
def test_files_that_nothing_reads_are_not_written(tmp_path, capsys, verb, target):
    for name in ("0.pth", "1.pth"):
        write_checkpoint(tmp_path / name, {"model": {"query_initializer.a": torch.ones(2)}})
    sources = [str(tmp_path / name) for name in ("0.pth", "1.pth")]
    target = str(tmp_path / target)
    arguments = [target, *sources] if verb == "average" else [sources[0], target]
    assert main([verb, *arguments]) == 2
    assert f"{target} must end in .pth or .safetensors" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2


def test_endings_in_capitals(tmp_path):
    """What is written by such a name is read by it, from the library's format and from torch's."""
    pytest.importorskip("safetensors")
    for number in range(2):
        state = {"query_initializer.a": torch.full((2,), float(number))}
        write_checkpoint(tmp_path / f"{number}.pth", {"model": state})
    for out in ("mean.PTH", "mean.SAFETENSORS"):
        found = average(tmp_path, "0.pth", "1.pth", out=out)
        assert torch.equal(found["query_initializer.a"], torch.full((2,), 0.5))
    mean, back = tmp_path / "mean.SAFETENSORS", tmp_path / "back.Pth"
    assert main(["convert", str(mean), str(back)]) == 0
    state = torch.load(back)["model"]
    assert torch.equal(state["query_initializer.a"], torch.full((2,), 0.5))
    assert main(["convert", str(back), str(tmp_path / "there.SafeTensors")]) == 0
    assert (tmp_path / "there.SafeTensors").read_bytes()[8:9] == b"{"
