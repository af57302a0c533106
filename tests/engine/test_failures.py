"""Steps whose losses aren't finite: skipped as if they had not been, or kept and run again."""

import logging

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

from ms_detr.config import load
from ms_detr.engine import Trainer, read_checkpoint
from ms_detr.engine.archive import write_checkpoint
from ms_detr.engine.building import build
from ms_detr.engine.failures import FailedStep, Failures
from ms_detr.engine.parts import in_parts
from ms_detr.engine.plain import from_plain, plain_batch, to_plain
from ms_detr.engine.precision import Precision
from ms_detr.engine.record import StepRecorder, read_record
from ms_detr.engine.replay import NAN, replay
from ms_detr.engine.trainer import step_seed
from ms_detr.errors import NonFiniteError
from ms_detr.structures import Step

from .standin import CONFIG, overrides
from .test_run import assert_same, curve, weights

POISON = 3  # the id of an image
EMA = "+train.ema={decay: 0.75}"
OPTIONS = ("model.poison=3", "model.batch_statistics=true", EMA, "train.eval_epochs=0")


def by_hand(data, folder):
    """Weights and their average after a training that leaves out steps with the poisoned image."""
    cfg = load(CONFIG, overrides(data, folder, "model.batch_statistics=true"))
    torch.manual_seed(cfg.train.seed)
    model, average = build(cfg, "model"), None
    loader = iter(build(cfg, "dataloader.train"))
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    rates = [group["lr"] for group in optimizer.param_groups]
    left_out = []
    for step in range(9):
        batch = next(loader)
        if any(x["image_id"] == POISON for x in batch):
            left_out.append(step)
            continue
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1.0 if step < 6 else 0.1)
        (part,) = in_parts(batch, 1, 0.0)
        torch.manual_seed(step_seed(cfg.train.seed, step, 0))
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in model(part).values()]).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        now = [p.detach().clone() for p in model.parameters()]
        average = [0.75 * a + 0.25 * p for a, p in zip(average or now, now, strict=True)]
    return model, average, left_out


@pytest.mark.slow
def test_a_skipped_step_is_one_that_was_left_out(train, data, tmp_path):
    train("out", *OPTIONS, "+train.max_skipped_steps=3")
    model, average, left_out = by_hand(data, tmp_path)
    assert len(left_out) == 3  # once in an epoch
    state = model.state_dict()
    found = weights(tmp_path / "out")
    assert found["backbone.1.running_mean"].isfinite().all()
    assert_same(found, state)
    named = dict(model.named_parameters())
    kept = weights(tmp_path / "out", "model_ema.pth")
    for name, mean in zip(named, average, strict=True):
        torch.testing.assert_close(kept[name], mean, rtol=1e-9, atol=1e-12)
    losses = curve(tmp_path / "out")
    assert sorted({*range(9)} - losses.keys()) == left_out
    counts = curve(tmp_path / "out", "skipped_steps")
    assert [counts[step] for step in left_out] == [1, 2, 3] and counts[8] == 3
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("The step is skipped, as ") == 3 and "as 2 of at most 3" in log
    assert log.count("003.png") == 3


def test_the_count_goes_on_and_ends_the_run(train, tmp_path):
    limit = "+train.max_skipped_steps=3"
    train("out", "train.max_iter=6", *OPTIONS, limit)
    state = read_checkpoint(tmp_path / "out" / "model_final.pth")
    assert state["failures"] == {"skipped": 2}
    with pytest.raises(NonFiniteError, match="3 are in the log") as error:
        train("out", "train.max_iter=15", *OPTIONS, limit, "--resume")
    assert "more than train.max_skipped_steps=3" in str(error.value)
    folders = sorted(path.name for path in (tmp_path / "out" / "failed_steps").iterdir())
    assert len(folders) == 3  # of four, without the first
    skipped = sorted({*range(15)} - curve(tmp_path / "out").keys())
    assert folders[:2] == [f"{step:07d}" for step in skipped[1:3]]


def test_without_a_limit_nothing_is_new(train, tmp_path):
    train("out", "train.max_iter=3")
    assert "failures" not in read_checkpoint(tmp_path / "out" / "model_final.pth")
    assert not curve(tmp_path / "out", "skipped_steps")
    assert not (tmp_path / "out" / "failed_steps").exists()


@pytest.mark.parametrize("value", ["-1", "1.5", "true"])
def test_limits_that_are_none(train, value):
    with pytest.raises(ValueError, match=r"train\.max_skipped_steps must be a whole number"):
        train("out", f"+train.max_skipped_steps={value}")


def test_a_step_of_a_run_comes_again(train, tmp_path):
    """In parts, with dropout: what the file says is what the model gets, and gives."""
    with pytest.raises(NonFiniteError, match="to run it again: ms-detr replay ") as error:
        train("out", "model.poison=3", "+train.accumulate=2")
    path = str(error.value).partition("ms-detr replay ")[2].partition(". ")[0]
    record = read_record(path)
    assert record.content["iteration"] == len(curve(tmp_path / "out"))
    assert len(record.parts[0]) == 2
    cfg = load(CONFIG, ["model.poison=3"])
    model = build(cfg, "model")
    model.load_state_dict(read_checkpoint(record.weights)["model"])
    found = replay(model, record, torch.device("cpu"))
    assert not found.finite and found.bad_losses == ["o2m/loss_class/1"]
    assert found.same_losses(record.content["losses"])
    assert any(x["image_id"] == POISON for x in record.parts[len(found.losses) - 1])
    assert found.outputs == {} and found.weights == []  # it is in no module's output
    record.content["seed"] += 1
    assert not replay(model, record, torch.device("cpu")).same_losses(record.content["losses"])
    model.poison = None
    assert replay(model, record, torch.device("cpu")).finite


@pytest.mark.parametrize("kept", [False, True])
def test_a_step_that_cannot_be_kept(train, tmp_path, kept):
    if not kept:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "failed_steps").touch()  # where a folder is needed
    with pytest.raises(NonFiniteError, match="o2m/loss_class/1; its images:") as error:
        train("out", "model.poison=3")
    assert ("can't be kept (" in str(error.value)) is not kept


class Root(nn.Module):
    """Its loss is finite, the gradient of a root of 0 isn't."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, batch):
        return {"loss": self.second(self.first(torch.ones(2))).sqrt().sum()}


def recorded(folder, model, batch, precision=None):
    """A step of a model that ends a training, read again; and the error."""
    precision = precision or Precision("cpu")
    recorder = StepRecorder(folder, model, precision, {})
    trainer = Trainer(
        model,
        [batch],
        torch.optim.SGD(model.parameters(), lr=0.1),
        precision=precision,
        failures=Failures(recorder=recorder),
    )
    with pytest.raises(NonFiniteError) as error:
        trainer.train(0, 1)
    return read_record(folder / "failed_steps" / "0000000" / "rank0.pth"), str(error.value)


def test_where_a_gradient_breaks(tmp_path):
    record, message = recorded(tmp_path, Root(), [{"image_id": 1}])
    assert "the gradient is not finite at iteration 0; rank 0: gradient of " in message
    model = Root()
    model.load_state_dict(read_checkpoint(record.weights)["model"])
    found = replay(model, record, torch.device("cpu"))
    assert found.gradient_of == "second" and not found.bad_losses and not found.finite
    assert "second.bias" in found.gradients and found.same_losses(record.content["losses"])
    with pytest.warns(UserWarning, match="Error detected in"):
        assert "returned nan" in replay(model, record, torch.device("cpu"), anomaly=True).error


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))

    def forward(self, batch):
        return {"loss": self.layers(torch.ones(3)).sum()}


def test_where_a_forward_pass_breaks(tmp_path):
    model = Chain()
    with torch.no_grad():
        model.layers[1].weight[0, 0] = torch.nan
    record, _ = recorded(tmp_path, model, [{"image_id": 1}], Precision("cpu", "bfloat16"))
    assert record.content["amp"] == "bfloat16"
    found = replay(model, record, torch.device("cpu"))
    assert found.outputs == {NAN: "layers.1, which was not given such"}
    assert found.weights == ["layers.1.weight"] and found.same_losses(record.content["losses"])


def test_batches_are_plain_and_come_back(tmp_path):
    instances = Instances((4, 6))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 1.0, 3.0, 4.0]]))
    instances.gt_classes = torch.tensor([2])
    instances.gt_masks = BitMasks(torch.eye(6)[None, :4] > 0)
    instances.gt_polygons = PolygonMasks([[np.array([0.0, 0.0, 3.0, 0.0, 3.0, 4.0])]])
    whole = torch.arange(100_000, dtype=torch.uint8).view(10, -1)
    sample = {
        "image": whole[3, :72].view(3, 4, 6),
        "instances": instances,
        "step": Step(5, 3, 2, 1, 4),
        "height": np.int64(4),
        "numbers": np.arange(3),
        "names": ("a", None, 1.5),
        "nested": {"x": [True]},
    }
    batch, left_out = plain_batch([{**sample, "strange": object()}])
    assert left_out == ["strange"]
    write_checkpoint(tmp_path / "x.pth", batch)
    assert (tmp_path / "x.pth").stat().st_size < 20_000  # not the memory of the whole batch
    (found,) = from_plain(read_checkpoint(tmp_path / "x.pth"))
    assert torch.equal(found["image"], sample["image"])
    assert found["step"] == sample["step"] and found["height"] == 4
    assert found["numbers"].tolist() == [0, 1, 2] and found["nested"] == {"x": [True]}
    assert found["names"] == ["a", None, 1.5]
    again = found["instances"]
    assert again.image_size == (4, 6) and again.gt_classes.tolist() == [2]
    for name in ("gt_boxes", "gt_masks"):
        assert torch.equal(again.get(name).tensor, instances.get(name).tensor)
    assert again.gt_polygons.polygons[0][0].tolist() == [0.0, 0.0, 3.0, 0.0, 3.0, 4.0]
    with pytest.raises(TypeError, match="object is no plain value"):
        to_plain(object())


def test_other_files_are_no_steps(tmp_path):
    write_checkpoint(tmp_path / "x.pth", {"model": {}})
    with pytest.raises(ValueError, match="is no step that wasn't finite"):
        read_record(tmp_path / "x.pth")
    write_checkpoint(tmp_path / "x.pth", {"format": 1, "parts": [[{"__kind__": "module"}]]})
    with pytest.raises(ValueError, match="its batch can't be read"):
        read_record(tmp_path / "x.pth")


def test_only_some_processes_keep_their_part(tmp_path):
    """All of them see a gradient that isn't finite; a thousand files help nobody."""
    model = Root()
    recorder = StepRecorder(tmp_path, model, Precision("cpu"), {})
    step = FailedStep("a loss", "x", 3, 0, [[{"image_id": 1}]], [])
    assert recorder.save(step, mine=False) == ""
    assert [path.name for path in tmp_path.rglob("*.pth")] == ["weights.pth"]


def test_a_skip_is_logged_with_its_images(caplog):
    failures = Failures(limit=1)
    logging.getLogger("ms_detr").propagate = True
    failures.meet(FailedStep("a loss", "x", 3, 0, [[{"image_id": 17}]], []))
    assert "17 (no file). The step is skipped, as 1 of at most 1" in caplog.text
    state = failures.state_dict()
    other = Failures(limit=1)
    other.load_state_dict(state)
    with pytest.raises(NonFiniteError, match="x; its images: 17"):
        other.meet(FailedStep("a loss", "x", 4, 0, [[{"image_id": 17}]], []))
