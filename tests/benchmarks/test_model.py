"""What a model costs: counted against fvcore, by hand, and against what is known of the models."""

import json
import math
import re

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ms_detr.benchmarks.model import count_cost, image_size
from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.ops import status
from tests.docs.pages import DOCS, ROOT
from tests.ops.inputs import needs_compiled
from tests.test_configs import SMALLER

pytestmark = needs_compiled
DEMO = "demo/ms_detr.py"
SIZE = (64, 96)
IMAGES = [{"image": torch.zeros(3, *SIZE, dtype=torch.uint8)}]
# fvcore's names of what `FlopCounterMode` counts as convolutions and matrix products.
PRODUCTS = {"conv", "linear", "addmm", "matmul", "bmm", "mm", "einsum"}
PRODUCTS |= {"scaled_dot_product_attention"}


class Forward(nn.Module):
    """Tensors in, tensors out, for fvcore's tracer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, mask):
        (predictions,) = self.model.forward_tensors(images, mask).values()
        return predictions.logits, predictions.boxes


def of_dense_attention(inputs, outputs):
    """Scores and their use; fvcore knows nothing of it."""
    query, key, value = (each.type().sizes() for each in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def test_flops_of_a_plain_transformer_are_fvcores():
    cfg = load("detr/detr_r50_100q_50ep.py", list(SMALLER))
    cost = count_cost(cfg, SIZE)
    model = build(cfg, "model").eval()
    with torch.no_grad():
        counted = FlopCountAnalysis(Forward(model), model.preprocess(IMAGES))
        counted.set_op_handle("aten::scaled_dot_product_attention", of_dense_attention)
        counted.unsupported_ops_warnings(False).tracer_warnings("none")
        by_operator = counted.by_operator()
    expected = sum(number for name, number in by_operator.items() if name in PRODUCTS)
    assert cost.gflops * 1e9 == pytest.approx(expected, rel=1e-9)
    assert cost.attention_gflops == 0
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_flops_of_the_demo_are_the_profilers():
    """But for deformable attention, and for dense attention: 48 queries, 64 channels, 3 layers."""
    cfg = load(DEMO)
    cost = count_cost(cfg, SIZE)
    model = build(cfg, "model").eval()
    tensors = model.preprocess(IMAGES)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], with_flops=True) as counted:
        model.forward_tensors(*tensors)
    products = ("aten::conv2d", "aten::addmm", "aten::mm", "aten::bmm")
    found = sum(each.flops for each in counted.key_averages() if each.key in products) / 2
    found += 3 * 2 * 48**2 * 64
    assert (cost.gflops - cost.attention_gflops) * 1e9 == pytest.approx(found, rel=1e-9)


def test_deformable_attention_by_hand():
    """A query a cell in the encoder, two points a level; 48 queries, four points in the decoder.

    Levels have strides of 8, 16 and 32 on 64 x 96 pixels, and each sample 64 channels in all.
    """
    cfg = load(DEMO, ["model.encoder.num_layers=1", "model.decoder.num_layers=1"])
    cells = 8 * 12 + 4 * 6 + 2 * 3
    expected = 4 * 64 * (cells * 3 * 2 + 48 * 3 * 4)
    assert count_cost(cfg, SIZE).attention_gflops * 1e9 == pytest.approx(expected)


def test_images_of_a_batch_cost_the_same():
    one, three = (count_cost(load(DEMO), SIZE, batch) for batch in (1, 3))
    assert three.gflops == pytest.approx(3 * one.gflops, rel=0.01)


def test_mixed_supervision_costs_parameters_in_training_alone():
    """The taps' networks: 6,308,352 numbers in the published code."""
    plain, mixed = (
        count_cost(load(f"{name}_r50_300q_12ep.py"), SIZE)
        for name in ("deformable_detr/deformable_detr", "ms_detr/ms_detr")
    )
    assert mixed.at_inference == plain.at_inference < plain.parameters
    assert mixed.parameters - plain.parameters == 6_308_352
    assert mixed.gflops == plain.gflops


def test_benchmark_model_counts_and_times(capsys):
    words = ["benchmark", "model", "--config-file", DEMO, "demo/deformable_detr.py", "--json"]
    words += ["--size", "64", "96", "--batch", "2", "--rounds", "2", "--threads", "1"]
    assert main(words) == 0
    first, other = json.loads(capsys.readouterr().out)
    assert first["config"] == DEMO and first["image"] == "64 x 96" and first["batch"] == 2
    assert first[f"ratio to {DEMO}"] == 1 and other[f"ratio to {DEMO}"] > 0
    for row in (first, other):
        assert row["images/s"] == pytest.approx(2000 / row["ms"])
        assert row["peak MB"] > 0 and row["GFLOPs"] > row["of deformable attention"] > 0
    assert main([*words[:-2], "--threads", "1", "--count-only"]) == 0
    assert "ms" not in json.loads(capsys.readouterr().out)[0]


@pytest.mark.parametrize(
    ("config", "overrides", "size"),
    [
        ("ms_detr/ms_detr_r50_300q_12ep.py", [], (800, 1333)),
        (DEMO, ["dataloader.short_edge=64"], (64, 107)),
        ("co_detr/co_dino_r50_5scale_lsj_12ep.py", [], (1024, 1024)),
    ],
)
def test_images_have_the_size_of_the_configs_test_images(config, overrides, size):
    assert image_size(load(config, overrides)) == size


def test_a_size_that_the_config_leaves_open_is_asked_for(capsys):
    words = ["benchmark", "model", "--count-only", "--json", "--config-file", DEMO]
    assert main(words) == 2
    assert f"error: {DEMO}: test images are left as they are" in capsys.readouterr().err
    assert main([*words, "--opts", "dataloader.short_edge=64"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    cost = count_cost(load(DEMO), (64, 107))
    assert (row["image"], row["GFLOPs"]) == ("64 x 107", pytest.approx(cost.gflops))


def test_images_that_no_memory_holds(capsys):
    words = ["benchmark", "model", "--config-file", DEMO, "--size", "4000000", "4000000"]
    assert main(words) == 2
    assert "error: out of memory" in (said := capsys.readouterr().err) and "--size" in said


def test_without_the_operator_nothing_is_counted(monkeypatch, capsys):
    without = type(status())((), {"cpu": "not built"}, "", "make ops")
    monkeypatch.setattr("ms_detr.benchmarks.model.status", lambda: without)
    words = ["benchmark", "model", "--count-only", "--size", "64", "96", "--config-file", DEMO]
    assert main(words) == 2
    assert "the compiled operator, which is missing here. To build it: make ops" in (
        capsys.readouterr().err
    )


ROW = re.compile(r"^\| `(\S+\.py)` +\|(.+)\|$", re.MULTILINE)


def test_the_page_has_every_model():
    """Lines that differ in schedule or jitter alone have one row."""

    def model(config: str) -> str:
        return re.sub(r"(_lsj)?_\d+ep\.py$", "", config)

    rows = [name for name, _ in ROW.findall((DOCS / "benchmarks" / "models.md").read_text())]
    configs = ROOT / "configs"
    files = (path.relative_to(configs) for path in configs.glob("*/*ep.py"))
    assert {model(path.as_posix()) for path in files} == {model(name) for name in rows}
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(
    "config", ["ms_detr/ms_detr_r50_300q_12ep.py", "detr/detr_r50_100q_50ep.py"]
)
def test_the_pages_table_is_what_is_counted(config):
    rows = dict(ROW.findall((DOCS / "benchmarks" / "models.md").read_text()))
    cost = count_cost(load(config))
    values = cost.parameters * 1e-6, cost.at_inference * 1e-6, cost.gflops, cost.attention_gflops
    shown = [cell.strip() for cell in rows[config].split("|")][:4]
    expected = [f"{values[0]:.2f}", f"{values[1]:.2f}", f"{values[2]:.1f}", f"{values[3]:.1f}"]
    assert shown == expected
