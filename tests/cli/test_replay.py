"""`ms-detr replay`: what it shows of a step, and its status."""

import pytest
import torch

from ms_detr.cli import main
from ms_detr.config import describe, load
from ms_detr.engine import Trainer, read_checkpoint
from ms_detr.engine.archive import write_checkpoint
from ms_detr.engine.failures import Failures
from ms_detr.engine.precision import Precision
from ms_detr.engine.record import StepRecorder
from ms_detr.errors import NonFiniteError
from tests.engine.standin import CONFIG, overrides, write_dataset
from tests.modeling.support import SMALLER, make_batch, make_model

DEMO = "configs/demo/family/ms_detr_dino.py"  # with draws of its own, for denoising
BROKEN = "decoder.layers.1.sublayers.ffn.linear1.weight"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A step of a model of ours, one weight of whose decoder isn't a number."""
    folder = tmp_path_factory.mktemp("run")
    model = make_model(*SMALLER, "model.num_classes=6", config=DEMO)
    with torch.no_grad():
        model.get_parameter(BROKEN)[0, 0] = torch.nan
    cfg = load(DEMO, [*SMALLER, "model.num_classes=6"])
    extra = {"config": describe(DEMO, SMALLER, cfg)}
    recorder = StepRecorder(folder, model, Precision("cpu"), extra)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = [{**x, "image_id": n + 40} for n, x in enumerate(make_batch())]
    trainer = Trainer(model, [batch], optimizer, failures=Failures(recorder=recorder))
    with pytest.raises(NonFiniteError, match="matching cost"):
        trainer.train(0, 1)
    return folder / "failed_steps" / "0000000" / "rank0.pth"


def test_it_shows_where_a_step_breaks(file, capsys):
    assert main(["replay", str(file), "--device=cpu"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("iteration 0, rank 0 of 1, on cpu, amp None, torch ")
    assert shown[1].startswith("in the run a loss was not finite: matching cost of term")
    assert shown[2] == (
        "  image 40 (1.png), 96 x 64 pixels of 0 to 255, 3 objects, boxes from (4, 6) to (36, 38),"
        " sides of 16 to 32"
    )
    assert "  image 41 (2.png), 64 x 80 pixels of 0 to 255, 0 objects" in shown
    assert f"weights that are not finite: {BROKEN}" in shown
    (first,) = [line for line in shown if "something NaN" in line]
    assert first.endswith(": decoder.layers.1.sublayers.ffn.linear1, which was not given such")
    assert shown[-2].startswith("it ends with: matching cost of term")
    assert shown[-1] == "it came again"
    assert "they are those of the run, to the last digit" not in shown  # there were none
    assert main(["replay", str(file.parent)]) == 2
    assert f"is a folder: give a file in it, such as {file}" in capsys.readouterr().err


def test_with_sound_weights_it_is_finite(file, capsys):
    """The file is self-contained, and says what it needs beside it."""
    weights = file.with_name("weights.pth")
    content = read_checkpoint(weights)
    content["model"][BROKEN].nan_to_num_(0.0)
    write_checkpoint(weights, content)
    assert main(["replay", str(file), "--device=cpu", "--anomaly"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("it is finite this time\n") and "not finite: decoder" not in shown
    weights.unlink()
    assert main(["replay", str(file), "--device=cpu"]) == 2
    assert f"checkpoint {weights} not found" in capsys.readouterr().err


def test_a_model_of_ones_own(tmp_path, capsys):
    """Its config is given, since a file must name no code to run."""
    write_dataset(tmp_path / "data")
    opts = overrides(tmp_path / "data", tmp_path / "out", "model.poison=3")
    assert main(["train", CONFIG, *opts]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    file = error.partition("ms-detr replay ")[2].partition(". ")[0]
    assert main(["replay", file]) == 2
    assert "tests.engine.standin.Detector" in capsys.readouterr().err
    assert main(["replay", file, CONFIG, *opts]) == 1
    shown = capsys.readouterr().out
    assert "  o2m/loss_class/1: nan  <- not finite\n" in shown
    assert "they are those of the run, to the last digit\n" in shown
    assert main(["replay", file, CONFIG, *opts, "model.poison=null"]) == 0
