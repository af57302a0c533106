"""The shipped configs under Detectron2's own tools/lazyconfig_train_net.py, and its keys here."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate

import ms_detr
from ms_detr.config import config_folder, load
from ms_detr.engine.checks import DETECTRON2S
from ms_detr.errors import ConfigError
from ms_detr.recipes import training

from .test_run import curve
from .test_zoo import files as files  # a fixture
from .test_zoo import theirs

CONFIG = config_folder() / "demo" / "ms_detr.py"


def script():
    """Detectron2's own, from its sources; else what does the same."""
    sources = [os.environ.get("DETECTRON2_SRC"), Path(detectron2.__file__).parents[1]]
    known = [Path(folder, "tools", "lazyconfig_train_net.py") for folder in sources if folder]
    own = Path(__file__).with_name("lazyconfig_tool.py")
    return next((file for file in known if file.is_file()), own)


def run(output, *arguments):
    """Run it on the CPU; its output."""
    command = [sys.executable, str(script()), "--config-file", str(CONFIG), *arguments]
    done = subprocess.run(
        [*command, "train.device=cpu", f"train.output_dir={output}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def small(demo_dataset):
    """Overrides for a few steps on a few images."""
    data = [
        f"dataloader.{loader}.dataset.{key}={demo_dataset / path}"
        for loader, split in (("train", "train"), ("test", "val"))
        for key, path in (("images", split), ("annotations", f"annotations/{split}.json"))
    ]
    names = [f"dataloader.{x}.dataset.name=tool_{demo_dataset.name}_{x}" for x in ("train", "test")]
    sizes = ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    sizes += ["dataloader.train.total_batch_size=2", "train.log_period=1"]
    return [*data, *names, *sizes]


@pytest.fixture
def start(tmp_path):
    """The override that names weights to start from."""
    torch.manual_seed(0)
    state = instantiate(load(CONFIG).model).state_dict()
    torch.save({"model": state}, tmp_path / "start.pth")
    return f"train.init_checkpoint={tmp_path / 'start.pth'}"


PERIODS = ["train.eval_period=2", "train.checkpointer.period=2"]


@pytest.mark.slow
def test_its_losses_are_those_of_a_run_of_ours(small, start, tmp_path):
    """On the same data; it clips no gradient, and writes medians of the last steps."""
    out = tmp_path / "out"
    run(out, *small, start, "train.max_iter=3", *PERIODS)
    found = curve(out, "total_loss")
    assert list(found) == [0, 1, 2] and list(curve(out, "bbox/AP")) == [1, 3]
    assert (out / "model_0000001.pth").is_file()
    more = ["train.max_iter=3", "train.device=cpu", "train.threads=1", "train.clip_grad_norm=null"]
    ms_detr.train(load(CONFIG, [*small, start, *more, f"train.output_dir={tmp_path / 'ours'}"]))
    losses = list(curve(tmp_path / "ours", "total_loss").values())
    medians = [statistics.median(losses[: count + 1]) for count in range(3)]
    assert list(found.values()) == pytest.approx(medians, rel=1e-5)
    assert len({round(value, 4) for value in losses}) == 3


@pytest.mark.slow
def test_it_goes_on_and_evaluates(small, start, tmp_path):
    """What it has trained is a checkpoint for us, too."""
    out = tmp_path / "out"
    for arguments in (["train.max_iter=2"], ["train.max_iter=4", "--resume"]):
        run(out, *arguments[1:], *small, start, arguments[0], *PERIODS)
    assert list(curve(out, "total_loss")) == [0, 1, 2, 3]
    last = out / "model_0000003.pth"
    cfg = load(CONFIG, [*small, "train.device=cpu", f"train.output_dir={tmp_path / 'ours'}"])
    results = ms_detr.evaluate(cfg, str(last))
    assert results["bbox"]["AP"] == pytest.approx(curve(out, "bbox/AP")[4])
    assert "bbox" in run(tmp_path / "eval", "--eval-only", *small, f"train.init_checkpoint={last}")


def test_the_backbone_of_the_zoo_goes_into_our_names(files):
    """By Detectron2's own loader, which leaves out what it doesn't know without an error."""
    model = torch.nn.Module()
    model.backbone = theirs(stride_in_1x1=False)
    DetectionCheckpointer(model).load(str(files / "torchvision.pkl"))
    expected = theirs(stride_in_1x1=False)
    DetectionCheckpointer(expected).load(str(files / "torchvision.pkl"))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[f"backbone.{name}"], tensor)


def test_the_recipes_values_are_the_ones_that_are_checked():
    recipe = training.run()
    assert {key: recipe[key] for key in DETECTRON2S} == {
        key: default for key, (default, _) in DETECTRON2S.items()
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+train.eval_period=100", "train.eval_period is read by .* here take train.eval_epochs"),
        ("+train.checkpointer={period: 9}", "here take train.checkpoint_epochs"),
        ("+train.ddp={find_unused_parameters: true}", "nothing in its place"),
        ("+train.eval_periods=100", "nothing reads train.eval_periods"),
    ],
)
def test_set_for_a_run_of_ours_they_are_an_error(train, override, message):
    with pytest.raises(ConfigError, match=message):
        train("out", override)
