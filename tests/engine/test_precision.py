"""Mixed precision of a training step."""

import pytest
import torch
from torch import nn

from ms_detr.engine import Trainer
from ms_detr.engine.ema import EMAHook, average_of
from ms_detr.engine.failures import Failures
from ms_detr.engine.precision import Precision
from ms_detr.errors import ConfigError, NonFiniteError

from ..modeling.support import make_batch, make_model
from .test_trainer import BATCH, Linear, make


def run(dtype):
    """Losses and gradients of a step of a small MS-DETR, and the dtypes of its linear layers."""
    model = make_model("model.dropout=0.0")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Trainer(
        model, [make_batch()], optimizer, precision=Precision("cpu", dtype), log_period=1
    )
    seen = set()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, inputs, out: seen.add(out.dtype))
    trainer.train(0, 1)
    losses = {k: h.latest() for k, h in trainer.storage.histories().items() if "loss" in k}
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, seen


def test_a_step_in_bfloat16_is_near_that_in_float32():
    losses, gradients, seen = run(None)
    half_losses, half_gradients, half_seen = run("bfloat16")
    assert seen == {torch.float32} and torch.bfloat16 in half_seen
    assert half_losses.keys() == losses.keys()
    # Of 8 bits; that it is not the same shows that it was computed in them.
    assert half_losses["total_loss"] == pytest.approx(losses["total_loss"], rel=0.05)
    assert half_losses["total_loss"] != losses["total_loss"]
    assert all(gradient.dtype == torch.float32 for gradient in half_gradients.values())
    name = "decoder.class_heads.1.weight"
    a, b = gradients[name].flatten(), half_gradients[name].flatten()
    assert torch.cosine_similarity(a, b, 0) > 0.95


def test_float16_needs_a_gpu():
    with pytest.raises(ConfigError, match="float16 needs a GPU; on the CPU take bfloat16"):
        Precision("cpu", "float16")


class Scaled(Precision):
    """Float16's scale, on a CPU in the dtype of the weights."""

    def __init__(self, scale):
        super().__init__("cpu")
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)


def test_steps_that_overflow_count_nowhere():
    values = [1.0, 1.0, 1e38, -0.25]  # the third one's gradient overflows, times 4 alone
    precision = Scaled(4.0)
    model, trainer = make(values, precision=precision, clip_grad_norm=1.0, log_period=4)
    average = average_of(model, 0.5)
    hook = EMAHook(average, model, None)
    hook.after_train = lambda: None  # there is no folder to write to
    trainer.register_hooks([hook])
    trainer.train(0, 4)
    # Weights: 2, 1.5, 1, 1, 1.125; averages of 1.5, 1 and 1.125.
    assert model.weight.item() == pytest.approx(1.125, abs=1e-5)
    assert average.module.weight.item() == pytest.approx(0.5 * 1.25 + 0.5 * 1.125, abs=1e-5)
    logged = {name: h.latest() for name, h in trainer.storage.histories().items()}
    assert logged["grad_norm"] == pytest.approx((1 + 1 + 0.25) / 3)
    assert logged["o2o/loss_a/0"] == pytest.approx((2 + 1.5 - 0.25) / 3, abs=1e-5)
    assert logged["amp_skipped"] == precision.skipped == 1 and precision.scaler.get_scale() == 2


class Root(Linear):
    """Its loss is finite; where it gets no value its gradient is not, whatever the scale."""

    def forward(self, batch):
        value = next(self.values)
        change = self.weight - self.weight.detach()
        return {"o2o/loss_a/0": change.sqrt() if value is None else self.weight * value}


def test_a_low_scale_is_not_to_blame():
    """Of 4, 2 and 1 it may be; at 0.5 the step is one that isn't finite, as without a scale."""
    model = Root([None] * 4 + [1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    precision, failures = Scaled(4.0), Failures(limit=1)
    trainer = Trainer(model, [BATCH] * 5, optimizer, precision=precision, failures=failures)
    trainer.train(0, 5)
    assert model.weight.item() == 2 - 0.5
    assert precision.skipped == 3 and failures.skipped == 1
    assert precision.scaler.get_scale() == 0.5
    model, precision = Root([None] * 5), Scaled(4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = Trainer(model, [BATCH] * 5, optimizer, precision=precision)
    with pytest.raises(NonFiniteError, match="iteration 3; rank 0: gradient of weight; its images"):
        trainer.train(0, 5)


class Huge(Linear):
    """Its gradients are finite, but not the sum of their squares."""

    def forward(self, batch):
        return {"o2o/loss_a/0": (self.weight + self.unused) * 1e25}


@pytest.mark.parametrize("limit", [None, 0.1])
@pytest.mark.parametrize("precision", [Scaled(4.0), Precision("cpu")])
def test_no_scale_is_to_blame_for_a_sum_of_squares(precision, limit):
    model = Huge([])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = Trainer(model, [BATCH], optimizer, precision=precision, clip_grad_norm=limit)
    with pytest.raises(NonFiniteError, match="rank 0: gradient of the sum of squares overflows;"):
        trainer.train(0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_steps_that_overflow_are_skipped_and_counted():
    precision = Precision("cuda", "float16")
    weight = nn.Parameter(torch.ones(1, device="cuda"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.backward(weight.sum() * float("inf"))
    precision.unscale(optimizer)
    assert not precision.step(optimizer)
    assert precision.skipped == 1 and weight.item() == 1.0
    other = Precision("cuda", "float16")
    other.load_state_dict(precision.state_dict())
    assert other.skipped == 1 and other.scaler.get_scale() == precision.scaler.get_scale()


def test_a_run_takes_the_keys_of_its_config(train, tmp_path):
    train("out", "+train.amp={enabled: true, dtype: bfloat16}", "train.max_iter=2")
    with pytest.raises(ValueError, match=r"train\.amp\.dtype must be bfloat16 or float16, got 'x'"):
        train("other", "+train.amp={enabled: true, dtype: x}")
    with pytest.raises(ValueError, match="float16 needs a GPU"):
        train("other", "+train.amp={enabled: true, dtype: float16}")
