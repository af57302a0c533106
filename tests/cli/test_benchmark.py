"""`ms-detr benchmark`, on sizes that take seconds."""

import gc
import json
import weakref
from typing import ClassVar

import pytest
import torch

from ms_detr.benchmarks import groups
from ms_detr.benchmarks.step import _first_batches, compare_steps
from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.meta_arch import MSDETR
from ms_detr.ops import status
from tests.ops.inputs import needs_compiled

CONFIG = "demo/ms_detr.py"
BASELINE = "demo/deformable_detr.py"


def test_benchmark_step_gives_ratios_to_the_first_and_memory(overrides, capsys):
    words = ["benchmark", "step", "--rounds", "2", "--steps", "1", "--json"]
    words += ["--config-file", CONFIG, BASELINE, "--opts", *overrides]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["config"], row["what"]) for row in rows] == [
        (config, what) for what in ("train", "predict") for config in (CONFIG, BASELINE)
    ]
    assert rows[0][f"ratio to {CONFIG}"] == rows[2][f"ratio to {CONFIG}"] == 1
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[0]["peak MB"] > 0


class Counted(MSDETR):
    """Knows how many of its kind are there when another is made."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    counts: ClassVar[list] = []

    def __init__(self, **options):
        gc.collect()
        self.counts.append(len(self.alive))
        super().__init__(**options)
        self.alive.add(self)


def test_benchmark_step_holds_one_model_at_a_time(overrides):
    Counted.counts.clear()
    target = f"model._target_={__name__}.Counted"
    rows = compare_steps([CONFIG] * 2, [*overrides, target], rounds=1, steps=1)
    assert len(rows) == 4
    assert Counted.counts == [0] * 4  # two rounds, the first to warm up


def test_benchmark_step_reads_the_same_data_once(overrides):
    other = [*overrides, "train.seed=7"]
    cfgs = [load(c, o) for c, o in ((CONFIG, overrides), (BASELINE, overrides), (CONFIG, other))]
    first, same, seeded = _first_batches(cfgs)
    assert len(first["train"]) == len(first["predict"]) + 2 == 4  # of 12 images in eights two
    assert all(same[what] is first[what] for what in ("train", "predict"))
    assert seeded["predict"] is first["predict"]
    names = [[x["file_name"] for batch in made["train"] for x in batch] for made in (first, seeded)]
    assert names[0] != names[1]


@needs_compiled
@pytest.mark.slow
def test_benchmark_op_gives_ratios_to_pure_torch(capsys):
    words = ["benchmark", "op", "--rounds", "1", "--case", "decoder 300", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["kernel"] == status().instruction_set
    assert all(result["machine"][key] > 0 for key in ("GFLOP/s", "memory GB/s", "cache GB/s"))
    assert len(result["rows"]) == 8
    assert all(row["ms"] > 0 and row["ratio"] > 0 and row["MB"] >= 0 for row in result["rows"])
    assert main([*words, "--entry", "operator"]) == 0
    assert "| decoder 300 | operator | forward" in " ".join(capsys.readouterr().out.split())


def test_benchmark_masks_tells_time_and_memory(capsys):
    words = ["benchmark", "masks", "--queries", "9", "--objects", "2", "--size", "64"]
    assert main([*words, "--threads", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["masks"] for row in rows] == [54, 12, 54, 72]
    assert all(row["seconds"] > 0 for row in rows)
    assert main([*words, "--threads", "1"]) == 0
    assert "| costs of matching | 54 |" in " ".join(capsys.readouterr().out.split())


def test_benchmark_criterion_gives_the_losses_of_the_loop(capsys):
    words = ["benchmark", "criterion", "--batch", "2", "--queries", "60", "--objects", "1", "9"]
    assert main([*words, "--rounds", "1", "--threads", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["rule"], row["objects"]) for row in rows] == [
        ("released", 1),
        ("released", 9),
        ("paper", 1),
        ("paper", 9),
    ]
    assert all(row["largest difference"] < 1e-5 and row["ratio"] > 0 for row in rows)
    assert main([*words, "--rounds", "1", "--threads", "1"]) == 0
    assert "| released | 2 | 60 | 1 |" in " ".join(capsys.readouterr().out.split())


def test_benchmark_groups_gives_the_output_of_the_dense_mask(capsys, monkeypatch):
    monkeypatch.setattr(groups, "SCHEMES", {"DN": (8, [(3, True)] * 2)})
    words = ["benchmark", "groups", "--batch", "1", "--rounds", "1", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["scheme"], row["queries"]) == ("DN", 14)
    assert row["largest difference"] < 1e-5 and row["ratio"] > 0
    assert main(words) == 0
    assert "| DN | 14 |" in " ".join(capsys.readouterr().out.split())


def test_benchmark_op_names_what_it_does_not_know(capsys):
    assert main(["benchmark", "op", "--case", "encodr"]) == 2
    assert "no ['encodr']; choose from ['encoder'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_benchmark_op_without_a_gpu_says_why(capsys):
    assert main(["benchmark", "op", "--device", "cuda"]) == 2
    reason = "PyTorch sees no GPU here"
    if "cuda" in status().reasons:
        reason = f"no compiled operator for cuda: {status().reasons['cuda']}"
    assert reason in capsys.readouterr().err
