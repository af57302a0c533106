"""The training step, in one process."""

import math

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from ms_detr.engine import Trainer
from ms_detr.engine.failures import Failures
from ms_detr.engine.trainer import step_seed
from ms_detr.errors import NonFiniteError

BATCH = [{"image_id": 7, "file_name": "seven.png"}]


class Linear(nn.Module):
    """Loss: the weight times a value that the batch brings."""

    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.unused = nn.Parameter(torch.tensor(1.0))
        self.values = iter(values)
        self.noise = []

    def forward(self, batch):
        self.noise.append(torch.rand(()).item())
        value = next(self.values)
        return {"o2o/loss_a/0": self.weight * value, "o2o/loss_b/0": self.weight.detach() * 0 + 1}


def make(values, **options):
    model = Linear(values)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return model, Trainer(model, [BATCH] * len(values), optimizer, **options)


def logged(trainer):
    return {name: history.values() for name, history in trainer.storage.histories().items()}


def test_steps_clip_and_means():
    model, trainer = make([1.0, 3.0, -0.25, 1.0, 1.0], clip_grad_norm=1.0, log_period=2)
    trainer.train(0, 5)
    # Gradients 1, 3 (clipped to 1), -0.25, 1 and 1; weight 2, 1.5, 1, 1.125, 0.625, 0.125.
    assert model.weight.item() == pytest.approx(2 - 0.5 * (1 + 1 - 0.25 + 1 + 1), abs=1e-5)
    assert model.unused.item() == 1.0
    values = logged(trainer)
    expected = [(2 * 1 + 1.5 * 3) / 2, (1 * -0.25 + 1.125) / 2, 0.625]
    assert [v for v, _ in values["o2o/loss_a/0"]] == pytest.approx(expected, abs=1e-4)
    assert [i for _, i in values["o2o/loss_a/0"]] == [1, 3, 4]  # every period, and the last
    assert [v for v, _ in values["total_loss"]] == pytest.approx(
        [v + 1 for v in expected], abs=1e-4
    )
    assert [v for v, _ in values["grad_norm"]] == pytest.approx([2, 0.625, 1], abs=1e-4)
    assert [v for v, _ in values["o2o/loss"]] == pytest.approx([v + 1 for v in expected], abs=1e-4)


def test_nothing_is_clipped_without_a_limit():
    model, trainer = make([3.0])
    trainer.train(0, 1)
    assert model.weight.item() == pytest.approx(0.5)


def test_randomness_depends_on_seed_and_iteration_alone():
    whole, trainer = make([0.0] * 6, seed=3)
    trainer.train(0, 6)
    torch.rand(17)
    rest, trainer = make([0.0] * 2, seed=3)
    trainer.train(4, 6)
    assert whole.noise[4:] == rest.noise
    assert len(set(whole.noise)) == 6
    other, trainer = make([0.0] * 6, seed=4)
    trainer.train(0, 6)
    assert not set(whole.noise) & set(other.noise)


@pytest.mark.parametrize("start", [0, 4])
def test_every_step_knows_how_far_the_training_is(start):
    """Also one that goes on."""

    class Looking(Linear):
        def forward(self, batch):
            seen.append(batch[0]["step"].done)
            return super().forward(batch)

    seen = []
    model = Looking([0.0] * 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    batch = [BATCH[0] | {"instances": []}]
    Trainer(model, [batch] * 5, optimizer).train(start, 5)
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8][start:]


def test_step_seeds_differ():
    seeds = {step_seed(s, i, r) for s in range(4) for i in range(50) for r in range(4)}
    assert len(seeds) == 4 * 50 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss(value):
    model, trainer = make(
        [1.0, value], failures=Failures(last_checkpoint=lambda: "out/model_0000000.pth")
    )
    with pytest.raises(NonFiniteError) as error:
        trainer.train(0, 2)
    message = str(error.value)
    for part in ("a loss is not finite at iteration 1", "rank 0: o2o/loss_a/0;", "7 (seven.png)",
                 "the last good checkpoint is out/model_0000000.pth", "optimizer.lr",
                 "if it fails again at once, delete that checkpoint"):  # fmt: skip
        assert part in message
    assert "loss_b" not in message
    assert model.weight.item() == 1.5  # as after the first step


def test_non_finite_gradient():
    class Root(Linear):
        def forward(self, batch):
            return {"o2o/loss_a/0": (self.weight - 2).sqrt() * next(self.values)}

    model = Root([1.0])
    trainer = Trainer(model, [BATCH], torch.optim.SGD(model.parameters(), lr=0.5))
    with pytest.raises(NonFiniteError, match="rank 0: gradient of weight; its images: 7") as error:
        trainer.train(0, 1)
    assert "there is no checkpoint yet" in str(error.value) and "delete" not in str(error.value)
    assert model.weight.item() == 2.0


def test_error_of_the_criterion_is_passed_on():
    class Raises(Linear):
        def forward(self, batch):
            raise NonFiniteError("matching cost of term 'o2m' is not finite in layer 5")

    model = Raises([])
    trainer = Trainer(model, [BATCH], torch.optim.SGD(model.parameters(), lr=0.5))
    with pytest.raises(NonFiniteError, match=r"iteration 0; rank 0: matching cost .*7 \(seven.png"):
        trainer.train(0, 1)


def test_many_images_are_cut_short():
    _, trainer = make([math.nan])
    trainer.loader = [[{"image_id": i} for i in range(30)]]
    with pytest.raises(NonFiniteError, match=r"7 \(no file\) and 22 more"):
        trainer.train(0, 1)


def test_detectron2_hooks_see_the_loop():
    class Spy(HookBase):
        def __init__(self):
            self.seen = []

        def before_step(self):
            self.seen.append(self.trainer.iter)

        def after_train(self):
            self.seen.append((self.trainer.iter, self.trainer.max_iter))

    _, trainer = make([1.0, 1.0])
    spy = Spy()
    trainer.register_hooks([spy])
    trainer.train(3, 5)
    assert spy.seen == [3, 4, (5, 5)]
