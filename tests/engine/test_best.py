"""The best weights by any metric, and which checkpoints are kept for good."""

import pytest
import torch

from ms_detr.engine import read_checkpoint
from ms_detr.errors import ConfigError
from ms_detr.evaluation import CocoEvaluator, metrics_of
from ms_detr.evaluation.scoring import metric_names

from .standin import Detector
from .test_checkpoint import hook_run, make
from .test_ema import AVERAGED
from .test_run import assert_same, curve


def results(*values):
    return [{"bbox": {"AP": 9.0 - n, "AP-cell": value}} for n, value in enumerate(values)]


def best(folder):
    return read_checkpoint(folder / "model_best.pth")


def test_a_metric_of_ones_own(tmp_path, caplog):
    hook_run(tmp_path, results(1.0, 3.0, 2.0), best="bbox/AP-cell")
    stored = best(tmp_path)
    assert stored["iteration"] == 1 and stored["best/bbox/AP-cell"] == 3.0
    assert "box_ap" not in stored
    # A resumed run remembers it; one of another metric begins anew, and says so.
    hook_run(tmp_path, results(2.5), best="bbox/AP-cell", steps=1)
    assert best(tmp_path)["best/bbox/AP-cell"] == 3.0 and "chosen anew" not in caplog.text
    with caplog.at_level("INFO"):
        hook_run(tmp_path, results(1.0), steps=1)
    assert best(tmp_path)["box_ap"] == 9.0
    assert "was chosen by bbox/AP-cell: it is chosen anew, by box AP" in caplog.text


def test_a_metric_that_is_not_measured_costs_no_training(tmp_path, caplog):
    _, hook, trainer = hook_run(tmp_path, results(1.0, 3.0), best="bbox/AP-cells", steps=2)
    assert trainer.iter == 2 and hook.results["bbox"]["AP-cell"] == 3.0
    assert not (tmp_path / "model_best.pth").exists()
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "no evaluation yields 'bbox/AP-cells'; the nearest are bbox/AP-cell" in line


def test_a_metric_without_a_value(tmp_path, caplog):
    hook_run(tmp_path, results(float("nan"), 2.0, float("nan")), best="bbox/AP-cell")
    assert best(tmp_path)["iteration"] == 1
    assert caplog.text.count("train.best=bbox/AP-cell has no value") == 1


def test_names_are_those_of_a_real_evaluation(train, monkeypatch):
    """What is told before the first evaluation is what that yields."""
    found = {}
    monkeypatch.setattr(CocoEvaluator, "evaluate", _recorded(CocoEvaluator.evaluate, found))
    monkeypatch.setattr(Detector, "detect", staticmethod(_in_float32(Detector.detect)))
    train("out", "+dataloader.evaluator.nms_threshold=0.7", "+train.best=bbox/AP-bar")
    assert found["told"] == found["measured"] and "bbox/AP-bar" in found["told"]
    assert "bbox_nms/AP-bar" in found["told"]
    with pytest.raises(ConfigError, match=r"'bbox/AP-ba'; the nearest are bbox/AP-bar"):
        train("other", "+train.best=bbox/AP-ba")


def _in_float32(detect):
    """NMS wants scores and boxes of one type."""
    return lambda x, *found: detect(x, *(tensor.float() for tensor in found))


def _recorded(evaluate, found):
    def record(self):
        results = evaluate(self)
        measured = [f"{task}/{name}" for task, values in results.items() for name in values]
        found.update(told=metrics_of(self), measured=measured)
        return results

    return record


def test_limits_are_part_of_the_names():
    assert "AR@5" in metric_names(["a"], 5) and "AP-a" in metric_names(["a"], 5)


def test_weights_of_the_average(train, tmp_path):
    train("out", AVERAGED, "train.eval_epochs=1", "+train.best=ema/bbox/AR@10")
    out = tmp_path / "out"
    stored = best(out)
    values = curve(out, "ema/bbox/AR@10")
    assert stored["best/ema/bbox/AR@10"] == max(values.values())
    # A checkpoint of the same step has both.
    saved = read_checkpoint(out / f"model_{stored['iteration']:07d}.pth")
    averaged = {k.removeprefix("module."): v for k, v in saved["ema"].items() if "." in k}
    assert_same(stored["model"], averaged)
    head = "class_head.weight"
    assert not torch.equal(stored["model"][head], saved["model"][head])


def test_an_average_that_is_not_there(train):
    with pytest.raises(ConfigError, match=r"there is none: set train\.ema\.decay"):
        train("out", "+train.best=ema/bbox/AP")


def test_the_version_is_in_checkpoints(train, tmp_path):
    import ms_detr

    train("out", "train.max_iter=1")
    assert read_checkpoint(tmp_path / "out" / "model_final.pth")["version"] == ms_detr.__version__


def periodic(folder):
    return sorted(int(path.stem[6:]) for path in folder.glob("model_0*.pth"))


def test_some_are_kept_for_good(tmp_path):
    saved = make(tmp_path, keep=1, keep_every=4)
    for done in range(2, 13, 2):
        saved.save(done - 1)
    assert periodic(tmp_path) == [3, 7, 11]


@pytest.mark.parametrize("every", [0, 9])
def test_later_legs_keep_them(tmp_path, caplog, every):
    """Epochs of another length, or none kept: what an earlier leg kept stays, the newest, too."""
    saved = make(tmp_path, keep=2, keep_every=4)
    for done in range(2, 13, 2):
        saved.save(done - 1)
    assert periodic(tmp_path) == [3, 7, 9, 11]
    caplog.clear()
    for leg in range(2):
        resumed = make(tmp_path, keep=2, keep_every=every)
        resumed.resume(str(tmp_path / f"model_{11 + 4 * leg:07d}.pth"))
        resumed.save(13 + 4 * leg)
        resumed.save(15 + 4 * leg)
    assert periodic(tmp_path) == [3, 7, 11, 17, 19]
    assert "goes on without" not in caplog.text
    resumed.save(11)  # gone back behind, and not kept for good this time
    resumed.save(12)
    resumed.save(13)
    assert periodic(tmp_path) == [3, 7, 12, 13, 17, 19]


def test_only_what_is_kept_is_marked(tmp_path):
    saved = make(tmp_path, keep=9, keep_every=4)
    saved.save(3)
    saved.save(5)
    saved.save(7, final=True)
    marked = {path.name for path in tmp_path.glob("*.pth") if "kept" in read_checkpoint(path)}
    assert marked == {"model_0000003.pth"}


def test_a_run_keeps_them_also_when_it_is_resumed(train, tmp_path):
    """Epochs have 3 iterations, rounded: a checkpoint every 2, of which every third is kept."""
    options = ("train.checkpoint_epochs=0.5", "train.checkpoints_to_keep=1", "train.eval_epochs=0")
    train("out", *options, "+train.keep_every_epochs=1.5", "train.max_iter=9")
    assert periodic(tmp_path / "out") == [5, 7]
    train("out", *options, "+train.keep_every_epochs=1.5", "train.max_iter=16", "--resume")
    assert periodic(tmp_path / "out") == [5, 11, 13]


@pytest.mark.parametrize("every", ["0.7", "0.25", "1.5"])
def test_what_is_kept_has_to_be_written(train, every):
    with pytest.raises(ConfigError, match=r"must be a multiple of train\.checkpoint_epochs=1"):
        train("out", f"+train.keep_every_epochs={every}")
    with pytest.raises(ConfigError, match=r"must be a multiple of train\.checkpoint_epochs=0"):
        train("out", f"+train.keep_every_epochs={every}", "train.checkpoint_epochs=0")
