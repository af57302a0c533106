"""Checkpoints: whole or not there, safe to read, resumed exactly."""

import os
import pickle

import pytest
import torch
from torch import nn

from ms_detr.engine import Checkpointer, EvaluationHook, Trainer, read_checkpoint
from ms_detr.engine.checkpoint import expect_unused, newest, remove_leftovers, resumable
from ms_detr.engine.state import load_strictly, plain_state
from ms_detr.errors import CheckpointError


def make(folder, seed=0, **options):
    torch.manual_seed(seed)
    model = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return Checkpointer(folder, model=model, optimizer=optimizer, **options)


def resume(checkpointer):
    return checkpointer.resume(newest(checkpointer.folder))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_save_and_resume(tmp_path):
    saved = make(tmp_path, extra={"config": {"text": "a: 1"}, "classes": ["a"]})
    assert saved.last() == ""
    saved.save(4)
    assert saved.last() == str(tmp_path / "model_0000004.pth")
    fresh = make(tmp_path, seed=1)
    assert not torch.equal(fresh.parts["model"].weight, saved.parts["model"].weight)
    assert resume(fresh) == 5
    assert torch.equal(fresh.parts["model"].weight, saved.parts["model"].weight)
    a, b = saved.parts["optimizer"].state_dict(), fresh.parts["optimizer"].state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert torch.equal(a["state"][0]["exp_avg"], b["state"][0]["exp_avg"])
    content = read_checkpoint(tmp_path / "model_0000004.pth")
    assert content["classes"] == ["a"] and content["config"] == {"text": "a: 1"}


def test_detectron2_reads_it(tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer

    saved = make(tmp_path)
    saved.save(4)
    model = nn.Linear(2, 3)
    rest = DetectionCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(model.weight, saved.parts["model"].weight) and rest["iteration"] == 4


def test_the_newest_are_kept(tmp_path):
    saved = make(tmp_path, keep=2)
    for iteration in (9, 10, 99999999):
        saved.save(iteration)
    saved.save_best(9, 40.0)
    saved.save(100000000, final=True)
    assert names(tmp_path) == [
        "last_checkpoint",
        "model_0000010.pth",
        "model_99999999.pth",
        "model_best.pth",
        "model_final.pth",
    ]
    assert saved.best_score() == 40.0
    assert saved.last().endswith("model_final.pth")
    with pytest.raises(ValueError, match="at least 1"):
        make(tmp_path, keep=0)


def test_what_was_just_saved_is_kept(tmp_path):
    """Behind checkpoints of a later iteration, which the run has gone back behind."""
    saved = make(tmp_path, keep=1)
    for iteration in (5, 8):
        make(tmp_path, keep=9).save(iteration)
    saved.save(2)
    saved.save(3)
    numbers = [name for name in names(tmp_path) if name.startswith("model_0")]
    assert numbers == [f"model_000000{i}.pth" for i in (3, 5, 8)]
    assert saved.last().endswith("model_0000003.pth")


def test_hyper_parameters_are_the_configs(tmp_path):
    saved = make(tmp_path)
    torch.optim.lr_scheduler.ConstantLR(saved.parts["optimizer"])
    saved.parts["optimizer"].step()
    saved.save(4)
    changed = make(tmp_path, seed=1)
    changed.parts["optimizer"].param_groups[0].update(lr=0.01, weight_decay=0.5, betas=(0.8, 0.9))
    resume(changed)
    (group,) = changed.parts["optimizer"].param_groups
    assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (0.01, 0.01, 0.5)
    assert group["betas"] == (0.8, 0.9)
    a, b = saved.parts["optimizer"].state_dict(), changed.parts["optimizer"].state_dict()
    assert torch.equal(a["state"][0]["exp_avg"], b["state"][0]["exp_avg"])


def test_nothing_to_resume(tmp_path):
    assert newest(tmp_path / "not there") == ""
    expect_unused(tmp_path)


@pytest.mark.parametrize("best", [False, True])
def test_start_afresh_refuses_a_used_folder(tmp_path, best):
    saved = make(tmp_path)
    saved.save_best(1, 2.0) if best else saved.save(1)
    with pytest.raises(ValueError, match=r"earlier run \(model_\w+\.pth\).*--resume"):
        expect_unused(tmp_path)


DAMAGES = ["cut", "empty", "garbage", "text", "of something else", "gone"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_passed_over(tmp_path, monkeypatch, damage):
    saved = make(tmp_path)
    saved.save(4)
    saved.save(9)
    newest = tmp_path / "model_0000009.pth"
    if damage == "gone":
        newest.unlink()
    else:
        size = newest.stat().st_size
        content = {
            "cut": newest.read_bytes()[: size // 2],
            "empty": b"",
            "garbage": b"x" * 99,
            "text": b"hello world",
        }
        if damage in content:
            newest.write_bytes(content[damage])
        else:
            torch.save({"model": {}}, newest)
    messages = []
    monkeypatch.setattr(
        "ms_detr.engine.checkpoint.logger.warning", lambda text, *args: messages.append(text % args)
    )
    assert resume(make(tmp_path, seed=1)) == 5
    if damage != "gone":
        (message,) = messages
        assert "model_0000009.pth" in message and "the checkpoint before it" in message


def test_all_damaged_is_an_error(tmp_path):
    saved = make(tmp_path)
    saved.save(4)
    (tmp_path / "model_0000004.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: .*model_0000004"):
        resume(saved)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    saved = make(tmp_path)
    saved.save(4, final=True)
    before = (tmp_path / "model_final.pth").read_bytes()

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        saved.save(9, final=True)
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert names(tmp_path) == ["last_checkpoint", "model_final.pth"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    saved = make(tmp_path)
    saved.save(4)
    (tmp_path / "model_0000009.pth.partial").write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert resume(saved) == 5
    assert "model_0000009.pth.partial" not in names(tmp_path)


def test_optimizer_of_another_config(tmp_path):
    make(tmp_path).save(4)
    other = make(tmp_path)
    groups = [{"params": [p]} for p in other.parts["model"].parameters()]
    other.parts["optimizer"] = torch.optim.AdamW(groups, lr=0.1)
    with pytest.raises(ValueError, match="config and overrides of the run"):
        resume(other)


def test_another_optimizer(tmp_path):
    """A traceback in the first step one way, silently without state the other."""
    kinds = [torch.optim.AdamW, torch.optim.SGD]
    alike = [torch.optim.Adam, torch.optim.Adamax]  # the second's hyper-parameters are all Adam's
    for kind, other in (kinds, kinds[::-1], alike, alike[::-1]):
        saved, changed = make(tmp_path), make(tmp_path)
        saved.parts["optimizer"] = kind(saved.parts["model"].parameters(), lr=0.1)
        saved.save(4)
        changed.parts["optimizer"] = other(changed.parts["model"].parameters(), lr=0.1)
        text = rf"model_0000004\.pth .*not {other.__name__}'s .*config and overrides of the run"
        with pytest.raises(CheckpointError, match=text):
            resume(changed)


def test_another_version_of_the_optimizer(tmp_path):
    """Torch gives an optimiser more hyper-parameters as time goes by; schedulers add theirs."""
    saved = make(tmp_path)
    saved.save(4)
    path = tmp_path / "model_0000004.pth"
    content = torch.load(path)
    (group,) = content["optimizer"]["param_groups"]
    del group["fused"], content["optimizer"]["class"]  # nor did earlier checkpoints name it
    group["initial_lr"] = 0.1
    torch.save(content, path)
    resumed = make(tmp_path, seed=1)
    assert resume(resumed) == 5
    a, b = saved.parts["optimizer"].state_dict(), resumed.parts["optimizer"].state_dict()
    assert torch.equal(a["state"][0]["exp_avg"], b["state"][0]["exp_avg"])


def test_the_final_one_of_a_shorter_leg_is_older(tmp_path):
    saved = make(tmp_path, keep=9)
    saved.save(4)
    saved.save(6, final=True)
    for iteration in (8, 12):
        saved.save(iteration)
    (tmp_path / "model_0000012.pth").write_bytes(b"")
    assert [path.stem for path in resumable(tmp_path)] == [
        "model_0000012", "model_0000008", "model_final", "model_0000004",
    ]  # fmt: skip
    assert resume(make(tmp_path)) == 9
    (tmp_path / "model_0000008.pth").write_bytes(b"")
    assert resume(make(tmp_path)) == 7
    (tmp_path / "model_final.pth").write_bytes(b"")
    assert resume(make(tmp_path)) == 5


class Code:
    """Unpickling it would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_is_never_run(tmp_path):
    path, trap = tmp_path / "code.pth", str(tmp_path / "trap")
    torch.save({"model": {}, "args": Code(trap)}, path)
    with pytest.raises(ValueError, match="could run code from the file"):
        read_checkpoint(path)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": Code(trap)}))
    with pytest.raises(ValueError, match=r"plain\.pkl .*(run code|not written by torch.save)"):
        read_checkpoint(tmp_path / "plain.pkl")
    assert not os.path.exists(trap)


@pytest.mark.parametrize(
    "content", [b"hello world", b"\x80\x02}q\x01.", b"PK\x03\x04", b"{}", b"\n"]
)
def test_foreign_files_have_a_short_message(tmp_path, content):
    path = tmp_path / "some.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.pth (was not written by|can't be read)") as error:
        read_checkpoint(path)
    message = str(error.value).removeprefix(str(path))
    assert len(message) < 150 and "This is" not in message


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth not found"):
        read_checkpoint(tmp_path / "none.pth")


def test_frozen_statistics_survive_the_old_detectron2():
    """0.4 shifts the variance of a state dict that has metadata, in the source as well."""
    from detectron2.layers import FrozenBatchNorm2d

    state = nn.BatchNorm2d(2).state_dict()
    state.pop("num_batches_tracked")
    target = FrozenBatchNorm2d(2)
    load_strictly(target, state, "here")
    assert torch.equal(target.running_var, torch.ones(2))
    assert torch.equal(state["running_var"], torch.ones(2))
    assert not hasattr(plain_state(state), "_metadata")


def hook_run(folder, results, period=1, steps=3, best=None):
    checkpointer = make(folder)
    trainer = Trainer(_Loss(), [[]] * steps, torch.optim.SGD([torch.ones(1)], lr=0.0))
    results = iter(results)
    hook = EvaluationHook(lambda: next(results), period, checkpointer, best)
    trainer.register_hooks([hook])
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    trainer._parameters = list(trainer.model.parameters())
    trainer.train(0, steps)
    return checkpointer, hook, trainer


class _Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return {"a/loss_b": self.weight}


def test_best_is_kept(tmp_path):
    results = [{"bbox": {"AP": ap, "APl": float("nan")}} for ap in (1.0, 3.0, 2.0)]
    checkpointer, hook, trainer = hook_run(tmp_path, results)
    assert checkpointer.best_score() == 3.0
    assert read_checkpoint(tmp_path / "model_best.pth")["iteration"] == 1
    assert hook.results == results[-1]
    history = trainer.storage.history("bbox/AP").values()
    assert [v for v, _ in history] == [1.0, 3.0, 2.0]
    assert "bbox/APl" not in trainer.storage.histories()
    # A resumed run remembers: 2.5 isn't the best.
    checkpointer, _, _ = hook_run(tmp_path, [{"bbox": {"AP": 2.5}}], steps=1)
    assert checkpointer.best_score() == 3.0


def test_best_of_masks(tmp_path):
    """Boxes and masks disagree; a resumed run that measures the other compares only like."""
    results = [
        {"bbox": {"AP": boxes}, "segm": {"AP": masks}}
        for boxes, masks in ((9.0, 4.0), (8.0, 6.0), (10.0, 5.0))
    ]
    checkpointer, _, _ = hook_run(tmp_path, results)
    stored = read_checkpoint(tmp_path / "model_best.pth")
    assert stored["iteration"] == 1 and stored["mask_ap"] == 6.0 and "box_ap" not in stored
    # Its boxes are worse than those masks in number, but nothing is known of boxes before.
    checkpointer, _, _ = hook_run(tmp_path, [{"bbox": {"AP": 2.0}}], steps=1)
    assert checkpointer.best_score("box_ap") == 2.0 and checkpointer.best_score("mask_ap") is None
    # A mask run from before has stored its boxes, which masks aren't measured by.
    checkpointer, _, _ = hook_run(tmp_path, [{"bbox": {"AP": 3}, "segm": {"AP": 1}}], steps=1)
    assert checkpointer.best_score("mask_ap") == 1.0


def test_evaluation_without_period_is_at_the_end(tmp_path):
    checkpointer, hook, _ = hook_run(tmp_path, [{"bbox": {"AP": float("nan")}}], period=0)
    assert hook.results and checkpointer.best_score() is None


class Counter:
    """Something else whose state a run keeps."""

    def __init__(self, count):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_further_parts_are_saved_and_resumed(tmp_path, caplog):
    make(tmp_path, ema=Counter(7)).save(4)
    assert read_checkpoint(tmp_path / "model_0000004.pth")["ema"] == {"count": 7}
    resumed = make(tmp_path, ema=Counter(0))
    assert resume(resumed) == 5 and resumed.parts["ema"].count == 7
    assert resume(make(tmp_path)) == 5  # whoever knows no such part
    resumed.save_best(4, 1.0)
    assert "ema" not in read_checkpoint(tmp_path / "model_best.pth")
    # A checkpoint of a run that had none.
    make(tmp_path / "old").save(4)
    young = make(tmp_path / "old", ema=Counter(3))
    assert resume(young) == 5 and young.parts["ema"].count == 3
    assert "model_0000004.pth holds no 'ema', which starts anew" in caplog.text
