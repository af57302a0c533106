"""Whole runs of the stand-in detector, through the config."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml

from ms_detr.engine import read_checkpoint
from ms_detr.engine.fit import run_length


def curve(folder, name="total_loss"):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line[name] for line in lines if name in line}


def weights(folder, name="model_final.pth"):
    return read_checkpoint(folder / name)["model"]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_run_trains_evaluates_and_reports(train, tmp_path, capsys):
    results = train("out")
    out = tmp_path / "out"
    # 12 images, batch 4, 3 epochs: 9 iterations, a checkpoint an epoch, the last two kept.
    assert {p.name for p in out.glob("*.pth")} == {
        "model_0000002.pth",
        "model_0000005.pth",
        "model_final.pth",
        "model_best.pth",
    }
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    losses = curve(out)
    assert list(losses) == list(range(9))
    assert losses[8] < losses[0]
    for term in ("o2o", "o2m", "encoder"):
        layers = [name for name in LOSSES if name.startswith(f"{term}/")]
        for iteration, total in curve(out, f"{term}/loss").items():
            assert total == pytest.approx(sum(curve(out, name)[iteration] for name in layers))
    # MultiStep: a tenth after two thirds; logged is the largest group's, the base rate.
    assert [round(v, 6) for v in curve(out, "lr").values()] == [1e-3] * 6 + [1e-4] * 3
    # Evaluated after 2 of 3 epochs, and at the end (which is iteration 9, after the last step).
    assert list(curve(out, "bbox/AP")) == [5, 9]
    assert curve(out, "bbox/AP")[9] == results["bbox"]["AP"]
    assert results["bbox"].keys() >= {"AP", "AP50", "APl", "AP-square", "AP-bar"}
    log = (out / "log.txt").read_text()
    for part in (
        "iter 9/9",
        "eta 0:00:0",
        "o2m ",
        "encoder ",
        "PyTorch",
        "total_batch_size",
        "| bbox",
    ):
        assert part in log + (out / "config.yaml").read_text(), part
    out_text = capsys.readouterr().out
    assert "iter 9/9" in out_text and f"PyTorch {torch.__version__}" in out_text
    assert "built with" in log and "built with" not in out_text  # Detectron2's long description
    assert list(out.glob("events.out.tfevents.*"))
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["optimizer"]["params"]["_target_"] == (
        "ms_detr.engine.optimizer.parameter_groups"
    )
    checkpoint = read_checkpoint(out / "model_final.pth")
    assert checkpoint["iteration"] == 8
    assert checkpoint["classes"] == ["square", "bar"]
    assert "train.output_dir" in " ".join(checkpoint["config"]["overrides"])
    assert "AdamW" in checkpoint["config"]["text"]


LOSSES = (
    "o2o/loss_class/0",
    "o2o/loss_bbox/0",
    "o2m/loss_class/0",
    "o2m/loss_class/1",
    "encoder/loss_bbox",
)


def test_seeded_runs_are_equal(train, tmp_path):
    train("a", "train.eval_epochs=0")
    # Evaluating, logging and checkpointing in between, and loading in workers, change nothing.
    train("b", "train.eval_epochs=1", "train.log_period=2", "dataloader.train.num_workers=1")
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    a, b = curve(tmp_path / "a"), curve(tmp_path / "b")
    assert b[1] == pytest.approx((a[0] + a[1]) / 2) and list(b) == [1, 3, 5, 7, 8]
    train("c", "train.seed=2")
    assert curve(tmp_path / "c")[0] != a[0]


@pytest.mark.parametrize("parts", [2, 4])
def test_a_run_in_parts_is_the_run(train, tmp_path, parts):
    train("whole", "model.dropout=0")
    train("parts", "model.dropout=0", f"+train.accumulate={parts}")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-9)
    losses, in_parts = (curve(tmp_path / folder) for folder in ("whole", "parts"))
    assert in_parts == {step: pytest.approx(loss, rel=1e-6) for step, loss in losses.items()}
    with pytest.raises(ValueError, match="train.accumulate=5 splits the 4 images of a process"):
        train("more", "+train.accumulate=5", "dataloader.train.dataset.annotations=not_read.json")


def test_resumed_run_is_the_unbroken_run(train, tmp_path):
    train("whole")
    # Stopped in the middle of an epoch (the schedule is that of 9 iterations).
    with pytest.raises(FloatingPointError):
        train("broken", "model.poison=3", "train.checkpoint_epochs=0.34")
    folder = tmp_path / "broken"
    stopped = len(curve(folder))
    assert 0 < stopped < 9
    with (folder / "metrics.json").open("a") as file:
        file.write('{"iteration": 7, "total_')
    train("broken", "--resume", "train.checkpoint_epochs=0.34")
    assert "resuming from" in (folder / "log.txt").read_text()
    assert_same(weights(tmp_path / "whole"), weights(folder))
    assert curve(folder) == curve(tmp_path / "whole")


def test_resumed_run_takes_the_configs_learning_rate(train, tmp_path):
    train("out", "train.max_iter=3")
    train("out", "--resume", "train.max_iter=6", "optimizer.lr=0.5")
    # Two thirds of the run at the full rate, the rest at a tenth.
    expected = {0: 1e-3, 1: 1e-3, 2: 1e-4, 3: 0.5, 4: 0.05, 5: 0.05}
    assert curve(tmp_path / "out", "lr") == pytest.approx(expected)


def test_broken_weights_are_no_result(train, tmp_path):
    train("out", "train.max_iter=1")
    checkpoint = read_checkpoint(tmp_path / "out" / "model_final.pth")
    checkpoint["model"]["box_head.bias"].fill_(math.nan)
    torch.save(checkpoint, tmp_path / "nan.pth")
    with pytest.raises(FloatingPointError, match=r"NaN or infinite on 12 images \(ids 0, 1, "):
        train("alone", "--eval-only", f'train.init_checkpoint="{tmp_path}/nan.pth"')
    # Weights that a last step has led astray, which no loss has shown.
    with pytest.raises(FloatingPointError, match="lower optimizer.lr"):
        train("far", "train.max_iter=1", "optimizer.lr=1e200")
    assert not (tmp_path / "far" / "model_best.pth").exists()


def test_max_iter_wins_over_epochs(train, tmp_path):
    train("out", "train.max_iter=2", "train.checkpoint_epochs=0")
    assert list(curve(tmp_path / "out")) == [0, 1]
    assert not list((tmp_path / "out").glob("model_0*.pth"))


def test_a_run_in_the_home_folder(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    short = ("train.max_iter=1", "dataloader.evaluator.output_dir=~/found, here")
    train("out", *short, "train.output_dir=~/runs/a=1, b")
    assert (tmp_path / "found, here" / "results.json").is_file()
    assert (tmp_path / "runs" / "a=1, b" / "model_final.pth").is_file()
    alone = train("alone", "--eval-only", "train.init_checkpoint=~/runs/a=1, b/model_final.pth")
    assert alone["bbox"]
    assert not (tmp_path / "~").exists()


def test_finished_run_resumed_only_evaluates(train, tmp_path):
    first = train("out", "train.max_iter=2")
    before = (tmp_path / "out" / "metrics.json").read_text()
    assert train("out", "--resume", "train.max_iter=2") == first
    assert curve(tmp_path / "out").keys() == {0, 1}
    assert before.count("total_loss") == 2
    assert train("out", "--resume", "train.max_iter=1") == first
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("nothing is left to train, the checkpoint has 2 iterations") == 2


def test_eval_only(train, tmp_path):
    trained = train("out", "train.max_iter=3")
    alone = train("alone", "--eval-only", f'train.init_checkpoint="{tmp_path}/out/model_final.pth"')
    assert alone == trained == train("out", "--eval-only", "--resume")
    assert not (tmp_path / "alone" / "metrics.json").exists()
    with pytest.raises(ValueError, match="needs a trained model"):
        train("empty", "--eval-only")


def test_new_run_does_not_overwrite_an_old_one(train, tmp_path):
    train("out", "train.max_iter=1")
    before = weights(tmp_path / "out")
    with pytest.raises(ValueError, match=r"model_final\.pth.*--resume"):
        train("out", "train.max_iter=1", "train.seed=3")
    assert_same(before, weights(tmp_path / "out"))


def test_non_finite_loss_stops_the_run(train, tmp_path, capsys):
    with pytest.raises(FloatingPointError) as error:
        train("out", "model.poison=3", "train.checkpoint_epochs=0.34")
    message = str(error.value)
    iteration = len(curve(tmp_path / "out"))
    last = tmp_path / "out" / f"model_{iteration - 1:07d}.pth"
    for part in (f"iteration {iteration};", "o2m/loss_class/1", "3 (", "003.png", str(last)):
        assert part in message, message
    assert "o2o/loss_class/0" not in message
    assert last.is_file()
    assert all(v.isfinite().all() for v in weights(tmp_path / "out", last.name).values())
    assert not (tmp_path / "out" / "evaluation").exists()  # a failed run isn't evaluated
    # In the log without traceback, since it says it all.
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "003.png" in log and "Traceback" not in log
    assert "003.png" not in capsys.readouterr().out  # the command prints the error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_classes=3", r"2 classes .*, the model 3\. .*num_classes=2"),
        ("train.device=cuda", "no CUDA device" if not torch.cuda.is_available() else "never"),
        ("train.epochs=0", "nothing to train"),
        ("train.epochs=null", "nothing to train"),
        ("train.checkpoints_to_keep=0", "train.checkpoints_to_keep must be at least 1"),
        ("~train.log_period", "lacks train.log_period"),
        ("~dataloader.evaluator", "lacks dataloader.evaluator"),
        ("train.init_checkpoint=nothing.pth", "checkpoint nothing.pth not found"),
    ],
)
def test_bad_config(train, override, message):
    if message == "never":
        pytest.skip("there is a CUDA device")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train("out", override)


def test_a_small_part_of_an_epoch_is_an_iteration(train, tmp_path):
    """Of 3 iterations; 0 alone means never."""
    small = ["train.checkpoint_epochs=0.01", "train.checkpoints_to_keep=9"]
    small += ["~train.eval_epochs", "+train.eval_epochs=0.01"]  # the stand-in's is a whole number
    train("out", *small, "+train.keep_every_epochs=0.02")
    out = tmp_path / "out"
    assert sorted(curve(out, "bbox/AP")) == [*range(8), 9]
    saved = {int(path.stem[6:]): path for path in out.glob("model_0*.pth")}
    assert sorted(saved) == list(range(8))
    assert [i for i in sorted(saved) if "kept" in read_checkpoint(saved[i])] == [1, 3, 5, 7]
    assert run_length(SimpleNamespace(epochs=0.1, max_iter=None), 3) == 1
    assert run_length(SimpleNamespace(epochs=0.5, max_iter=None), 24) == 12


def test_results_are_finite_or_left_out_of_the_metrics(train, tmp_path):
    results = train("out", "train.max_iter=1")
    assert math.isnan(results["bbox"]["APl"])  # no object is that large
    assert "NaN" not in (tmp_path / "out" / "metrics.json").read_text()


def test_tensorboard_has_the_same_curve(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train("out", "train.max_iter=3")
    events = EventAccumulator(str(tmp_path / "out"))
    events.Reload()
    assert {*LOSSES, "total_loss", "o2m/loss", "lr", "bbox/AP"} <= set(events.Tags()["scalars"])
    shown = {event.step: event.value for event in events.Scalars("o2m/loss_class/1")}
    assert shown == pytest.approx(curve(tmp_path / "out", "o2m/loss_class/1"))


def test_an_extended_run_keeps_its_evaluations(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    ap = train("out", "train.max_iter=2")["bbox"]["AP"]
    train("out", "train.max_iter=2", "--resume")  # nothing is left: evaluated again
    extended = train("out", "train.max_iter=4", "--resume")["bbox"]["AP"]
    assert curve(out, "bbox/AP") == {2: ap, 4: extended} and list(curve(out)) == [0, 1, 2, 3]
    events = EventAccumulator(str(out))
    events.Reload()
    assert [event.step for event in events.Scalars("bbox/AP")] == [2, 4]
    assert [event.step for event in events.Scalars("total_loss")] == [0, 1, 2, 3]
