"""Steps that lack memory say for which images, and what to do."""

import pickle

import pytest
import torch
from detectron2.utils import comm

from ms_detr.config import load
from ms_detr.engine import launch
from ms_detr.engine import train as train_config
from ms_detr.engine.out_of_memory import is_out_of_memory
from ms_detr.errors import OutOfMemoryError, short_message
from tests.engine.standin import CONFIG, Detector, overrides

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


def two_processes(folder, data):
    """Process 1 takes one image at once, then lacks memory in the forward, the backward pass."""
    original = Detector.losses
    lacking = {"images": 1, "fail": None}

    def losses(self, inputs, *args):
        if comm.get_rank() == 0:
            return original(self, inputs, *args)
        if len(inputs) > lacking["images"]:
            in_forward({})
        found = original(self, inputs, *args)
        return lacking["fail"](found) if lacking["fail"] else found

    Detector.losses = losses

    def run(name, *more):
        return train_config(load(CONFIG, overrides(data, folder / name, "train.max_iter=2", *more)))

    run("auto", "+train.batch_size=auto")
    lacking.update(fail=in_forward)
    try:
        run("forward", "+train.batch_size=1")
    except OutOfMemoryError as error:
        (folder / f"forward_{comm.get_rank()}").write_text(str(error))
    lacking.update(fail=in_backward)
    run("backward", "+train.batch_size=1")


@pytest.mark.slow
def test_in_one_of_two_processes(tmp_path, data):
    """All say so of the forward pass; of the backward pass one does, and nobody waits for it."""
    with pytest.raises(OutOfMemoryError, match="in the backward pass; rank 1: CUDA out of memory"):
        launch(two_processes, (tmp_path, data), num_processes=2, device="cpu")
    log = (tmp_path / "auto" / "log.txt").read_text()
    assert "2 processes x 1 image at once x 2 parts = 4 images a step" in log
    told = [(tmp_path / f"forward_{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1] and "in the forward pass; rank 1: CUDA out of memory" in told[0]
