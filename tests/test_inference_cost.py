"""At inference MS-DETR does the work of its baseline, and no more."""

import time
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .modeling.support import BASELINE, MS_DETR, make_input, make_model
from .test_configs import SMALLER

VARIANTS = ["a", "b", "d"]
CONFIGS = [MS_DETR, *(f"configs/ms_detr/ms_detr_{v}_r50_300q_12ep.py" for v in VARIANTS)]
IMAGES = [make_input(96, 128, seed=1), make_input(128, 80, seed=2)]


class Operators(TorchDispatchMode):
    """Counts the operators that are run."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.counts[str(function)] += 1
        return function(*arguments, **(options or {}))


def predict(model):
    with torch.no_grad():
        return model(IMAGES)


def operators(model):
    with Operators() as found:
        predict(model)
    return found.counts


@pytest.fixture(scope="module")
def baseline():
    return make_model(*SMALLER, config=BASELINE).eval()


@pytest.mark.parametrize("config", CONFIGS)
def test_runs_the_operators_of_its_baseline(baseline, config):
    model = make_model(*SMALLER, config=config).eval()
    expected = operators(baseline)
    assert operators(model) == expected
    assert any("deformable_attention" in name or "grid_sampler" in name for name in expected)
    model.train()
    assert sum(operators_of_training(model).values()) > sum(
        operators_of_training(baseline).values()
    )
    baseline.eval()


@pytest.mark.parametrize(
    ("trained", "plain"),
    [
        ("ms_detr_dino_r50_4scale_12ep", "dino/dino_r50_4scale_12ep"),
        ("ms_detr_dab_deformable_r50_300q_12ep", "dab_detr/dab_deformable_detr_r50_300q_12ep"),
        ("ms_detr_dab_r50_300q_50ep", "dab_detr/dab_detr_r50_300q_50ep"),
        ("ms_detr_conditional_r50_300q_50ep", "conditional_detr/conditional_detr_r50_300q_50ep"),
        ("ms_detr_smca_r50_300q_50ep", "smca/smca_r50_300q_50ep"),
        ("ms_detr_sam_r50_300q_50ep", "sam_detr/sam_detr_r50_300q_50ep"),
        ("ms_detr_detr_r50_100q_50ep", "detr/detr_r50_100q_50ep"),
        ("ms_detr_co_pp_r50_300q_12ep", "ms_detr/ms_detr_pp_r50_300q_12ep"),
        ("../co_detr/co_deformable_detr_r50_300q_12ep", BASELINE[len("configs/") : -len(".py")]),
    ],
)
def test_a_combination_runs_the_operators_of_its_method(trained, plain):
    configs = f"configs/ms_detr/{trained}.py", f"configs/{plain}.py"
    models = (make_model(*SMALLER, config=config).eval() for config in configs)
    found, expected = map(operators, models)
    assert found == expected


def operators_of_training(model):
    model.train()
    images = [make_input(96, 128, labels=(1, 2), seed=1)]
    with Operators() as found, torch.no_grad():
        model(images)
    return found.counts


def test_reads_the_parameters_of_its_baseline(baseline):
    """All others may be anything."""
    model = make_model(*SMALLER, config=MS_DETR).eval()
    before = predict(model)
    spoiled = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".taps." in name:
                parameter.fill_(float("nan"))
                spoiled += parameter.numel()
    after = predict(model)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one["instances"].scores, other["instances"].scores)
    count = sum(p.numel() for p in model.parameters())
    assert count - spoiled == sum(p.numel() for p in baseline.parameters())


@pytest.mark.slow  # of a busy machine even processor time is not even
def test_takes_the_time_of_its_baseline(baseline):
    """The least processor time of many runs on one thread, turn by turn."""
    model = make_model(*SMALLER, config=MS_DETR).eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [[], []]
        for _ in range(40):
            for seconds, one in zip(times, (baseline, model), strict=True):
                start = time.thread_time()
                predict(one)
                seconds.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times[1]) < 1.25 * min(times[0])
