"""Steps that lack memory say for which images, and what to do."""

import pickle

import pytest
import torch

from ms_detr.engine.out_of_memory import is_out_of_memory
from ms_detr.errors import OutOfMemoryError, short_message
from tests.engine.standin import Detector

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


class Hungry(torch.autograd.Function):
    """Lacks memory in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError(CUDA)


def test_what_is_out_of_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)  # more than any machine has
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError(CUDA)) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes don't fit"))
    assert not is_out_of_memory(OutOfMemoryError("told already"))


def fail_at(monkeypatch, step, fail):
    """From now on the stand-in's losses go through a function in one step."""
    original = Detector.losses

    def losses(self, inputs, *args):
        found = original(self, inputs, *args)
        return fail(found) if self.steps == step else found

    monkeypatch.setattr(Detector, "losses", losses)


def in_forward(losses):
    raise torch.OutOfMemoryError(CUDA)


def in_backward(losses):
    return {name: Hungry.apply(loss) for name, loss in losses.items()}


@pytest.mark.parametrize(
    ("fail", "where"), [(in_forward, "the forward pass"), (in_backward, "the backward pass")]
)
def test_names_images_and_what_to_do(train, tmp_path, monkeypatch, fail, where):
    # The third step's second part; each of the six steps before it saves.
    fail_at(monkeypatch, 6, fail)
    with pytest.raises(OutOfMemoryError) as error:
        train("out", "+train.accumulate=2", "train.checkpoint_epochs=0.34")
    message = short_message(error.value)
    assert f"out of memory at iteration 2, in {where}; rank 0: {CUDA}; images at once: 2: " in (
        message
    )
    assert message.count("(40x32, ") == 2 and " objects)" in message
    for key in ("batch_size=auto", "activation_checkpointing.encoder=true", "amp.enabled=true"):
        assert f"train.{key}" in message
    assert f"the last checkpoint is {tmp_path}/out/model_0000001.pth: go on with --resume" in (
        message
    )
    assert "\n" not in message
    assert str(pickle.loads(pickle.dumps(error.value))) == message


def test_other_errors_are_left_alone(train, monkeypatch):
    def broken(losses):
        raise RuntimeError("shapes don't fit")

    fail_at(monkeypatch, 2, broken)
    with pytest.raises(RuntimeError, match="^shapes don't fit$"):
        train("out")


def test_without_a_checkpoint(train, monkeypatch):
    fail_at(monkeypatch, 1, in_forward)
    with pytest.raises(OutOfMemoryError, match="there is no checkpoint yet: start again"):
        train("out")
