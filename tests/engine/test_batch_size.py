"""One recipe on any number of devices: parts of a step, and the rate for another batch."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.data import build_train_loader
from ms_detr.engine import build_optimizer, trial
from ms_detr.engine.batch_size import batching, scale_learning_rate
from ms_detr.engine.precision import Precision
from ms_detr.engine.trial import largest_that_fits
from ms_detr.errors import ConfigError, OutOfMemoryError
from ms_detr.recipes import demo, training
from tests.engine.small_steps import detector
from tests.engine.standin import CONFIG, Detector

from .test_run import assert_same, curve, weights

AT_ONCE = "+train.batch_size="


@pytest.fixture
def at_most(monkeypatch):
    """Let the stand-in lack memory for more images than so many; returns how many it was given."""
    original, seen = Detector.losses, []

    def limit(most):
        def losses(self, inputs, *args):
            seen.append(len(inputs))
            if len(inputs) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return original(self, inputs, *args)

        monkeypatch.setattr(Detector, "losses", losses)
        return seen

    return limit


@pytest.mark.parametrize(
    ("settings", "images", "parts", "shown"),
    [
        ({}, 4, 1, "1 process x 4 images at once x 1 part = 4 images a step"),
        ({"accumulate": 3}, 8, 3, "1 process x at most 3 images at once x 3 parts = 8 images a "),
        ({"batch_size": 4}, 8, 2, "1 process x 4 images at once x 2 parts = 8 images a step"),
        ({"batch_size": 3}, 7, 3, "1 process x at most 3 images at once x 3 parts = 7 images a "),
        ({"batch_size": 1}, 8, 8, "1 process x 1 image at once x 8 parts = 8 images a step"),
        ({"batch_size": 20}, 8, 1, "1 process x 8 images at once x 1 part = 8 images a step"),
        ({"batch_size": "auto"}, 16, 4, "1 process x 4 images at once x 4 parts = 16 images a st"),
    ],
)
def test_parts_of_a_step(settings, images, parts, shown):
    settings = OmegaConf.create({"batch_size": None, "accumulate": 1} | settings)
    found = batching(settings, images, lambda: 5 if settings.batch_size == "auto" else 1 / 0)
    assert (found.parts, found.images) == (parts, images)
    assert str(found).startswith(shown)


def test_two_processes_share_a_step(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    settings = OmegaConf.create({"batch_size": 3, "accumulate": 1})
    shown = "2 processes x at most 3 images at once x 3 parts = 16 images a step"
    assert str(batching(settings, 16, int)) == shown


@pytest.mark.parametrize(
    ("rule", "total", "made_for", "rate"),
    [
        ("none", 32, 16, 2e-4),
        ("linear", 32, 16, 4e-4),
        ("linear", 4, 16, 5e-5),
        ("sqrt", 64, 16, 4e-4),
        ("sqrt", 8, 16, 1.4142135623730951e-4),
        ("linear", 16, 16, 2e-4),
    ],
)
def test_the_rate_for_another_batch(rule, total, made_for, rate):
    train = {"lr_scaling": rule, "lr_batch_size": made_for, "max_iter": None}
    cfg = OmegaConf.create(
        {
            "train": train,
            "optimizer": {"lr": 2e-4, "params": {"base_lr": "${optimizer.lr}"}},
            "dataloader": {"train": {"total_batch_size": total}},
        }
    )
    scale_learning_rate(cfg)
    assert cfg.optimizer.params.base_lr == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("base", ["${optimizer.lr}", 0.001])
def test_the_scaled_rate_is_what_the_optimizer_has(base):
    """Also where a config repeats the number instead of the link."""
    cfg = load(CONFIG, ["+train.lr_scaling=linear", "+train.lr_batch_size=2", "optimizer.lr=0.001"])
    cfg.train.max_iter, cfg.dataloader.train.total_batch_size = None, 4
    cfg.optimizer.params.base_lr = base
    scale_learning_rate(cfg)
    optimizer = build_optimizer(cfg.optimizer, detector())
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(0.002)


def test_recipes_say_which_batch_their_rate_is_for():
    for recipe in (training.three_rates, training.two_rates):
        assert recipe()[0].lr_batch_size == 16  # ms_detr.recipes.coco's
    _, dataloader, train, _, _ = demo.demo("two_stage")
    assert train.lr_batch_size == dataloader.train.total_batch_size == 8


def test_a_run_says_what_it_chose(train, tmp_path):
    scaled = ("+train.lr_scaling=linear", "+train.lr_batch_size=2", "lr_multiplier.milestones=[8]")
    train("out", AT_ONCE + "3", "train.max_iter=3", *scaled)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert (
        "1 process x 2 images at once x 2 parts = 4 images a step; learning rate 0.002 = 0.001 x "
        "2 (train.lr_scaling=linear, made for 2 images)"
    ) in log
    assert "train.max_iter=3 counts steps, whatever their size: 12 images in all, not 6" in log
    rates = curve(tmp_path / "out", "lr")
    assert list(rates.values()) == pytest.approx([2e-3] * 3)


def test_a_run_with_fewer_images_at_once_is_the_run(train, tmp_path):
    train("whole", "model.dropout=0", "train.max_iter=4")
    train("parts", "model.dropout=0", "train.max_iter=4", AT_ONCE + "3")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("workers", [0, 1])
def test_auto_is_the_number_that_fits(train, tmp_path, at_most, workers):
    """With dropout, BatchNorm's statistics, workers: the trial leaves no trace."""
    more = [f"dataloader.train.num_workers={workers}", "model.batch_statistics=true"]
    more.append("train.max_iter=4")
    train("given", AT_ONCE + "2", *more)
    seen = at_most(3)
    train("found", AT_ONCE + "auto", *more)
    assert seen[:2] == [4, 2] and set(seen[2:]) == {2}
    log = (tmp_path / "found" / "log.txt").read_text()
    assert "4 images at once are too many" in log and "x 2 images at once x 2 parts = 4 im" in log
    assert_same(weights(tmp_path / "given"), weights(tmp_path / "found"))
    assert curve(tmp_path / "given") == curve(tmp_path / "found")


def test_auto_takes_all_where_all_fit(train, tmp_path, at_most):
    train("plain", "train.max_iter=2")
    seen = at_most(9)
    train("auto", "train.max_iter=2", AT_ONCE + "auto")
    assert seen == [4, 4, 4]
    assert_same(weights(tmp_path / "plain"), weights(tmp_path / "auto"))


def test_auto_where_nothing_fits(train, at_most):
    seen = at_most(0)
    with pytest.raises(OutOfMemoryError, match="in a trial before the first step; rank 0: CUDA ou"):
        train("out", AT_ONCE + "auto")
    assert seen == [4, 2, 1]


class Loader:
    """Images of these numbers of pixels and objects, a batch of two after the other."""

    def __init__(self, sizes):
        self.sizes = sizes

    def first_images(self, batches):
        assert batches == trial.LOOKED_AT
        return [
            {"image": torch.zeros(3, pixels, 1, dtype=torch.uint8), "instances": [0] * objects}
            for pixels, objects in self.sizes
        ]


class Model(torch.nn.Module):
    """Notes what it is tried on, and what gradients and random state it has then."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.norm = torch.nn.BatchNorm1d(2)
        self.tried = []

    def forward(self, batch):
        self.tried.append([(x["image"].shape[1], len(x["instances"])) for x in batch])
        assert self.weight.grad.tolist() == [0, 0] and batch[0]["step"].most == 9
        return {"loss": self.norm(self.weight * torch.rand(4, 2)).sum()}


def test_a_trial_takes_the_largest_and_the_fullest_and_leaves_nothing():
    sizes = [(5, 1)] * 13 + [(30, 2), (4, 9), (20, 3)]
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert largest_that_fits(model, optimizer, Loader(sizes), Precision("cpu")) == 2
    assert model.tried == [[(4, 9), (30, 2)]]
    assert torch.equal(torch.rand(3), expected)
    assert_same(model.state_dict(), before[0])
    assert optimizer.state_dict() == before[1]
    assert model.weight.grad is None


def test_a_trial_finds_the_fewest_parts():
    """Of 16 images at most 7 fit: three parts, of 6, do; halves of halves would be four."""
    model, tried = Model(), []

    def forward(batch):
        tried.append(len(batch))
        if len(batch) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {"loss": model.weight.sum()}

    model.forward = forward
    loader = Loader([(5, 9)] * 128)
    optimizer = torch.optim.AdamW(model.parameters())
    found = largest_that_fits(model, optimizer, loader, Precision("cpu"))
    assert (found, tried) == (6, [16, 8, 6])
    settings = OmegaConf.create({"batch_size": "auto", "accumulate": 1})
    assert batching(settings, 16, lambda: found).parts == 3


def test_a_run_that_goes_on_with_another_batch_is_told(train, tmp_path):
    train("out", "train.max_iter=2")
    other = ("--resume", "train.max_iter=3", "dataloader.train.total_batch_size=2")
    train("out", *other)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "model_final.pth was written with 4 images a step, and this run has 2" in log
    assert log.count("images a step, and this run has") == 1
    train("out", *other)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("images a step, and this run has") == 1


def test_a_look_ahead_leaves_the_loader_as_it_is():
    records = [{"file_name": str(index)} for index in range(10)]

    def mapper(record):
        return {"name": record["file_name"], "draw": torch.rand(1).item()}

    def loader():
        return build_train_loader(records, mapper, 4, num_workers=0, seed=3)

    looked_at = loader()
    found = looked_at.first_images(2)
    batches = [next(iterator) for iterator in [iter(looked_at)] for _ in range(2)]
    assert found == [x for batch in batches for x in batch]
    assert batches[0] == next(iter(loader()))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=2", "accumulate=2"], "batch_size=2 and train.accumulate=2 both say how many"),
        (["batch_size=0"], r"train\.batch_size must be at least 1 .*, auto, or null .* got 0"),
        (["batch_size=many"], r"train\.batch_size must be .* got 'many'"),
        (["batch_size=true"], r"train\.batch_size must be .* got True"),
        (["lr_scaling=linear"], r"lr_scaling=linear needs train\.lr_batch_size, the total batch"),
        (["lr_scaling=double"], r"train\.lr_scaling must be none or linear or sqrt, got 'double'"),
    ],
)
def test_what_contradicts_itself(train, overrides, message):
    with pytest.raises(ConfigError, match=message):
        train("out", *(f"+train.{override}" for override in overrides))
