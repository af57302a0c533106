"""`ms-detr sweep`: real trainings of the stand-in, and runs that are there already."""

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from PIL import Image

from ms_detr.cli import main
from ms_detr.cli._processes import processes
from ms_detr.cli._runs import Run
from ms_detr.engine import read_checkpoint
from ms_detr.signals import termination
from ms_detr.visualization.sweep import _places
from tests.engine.standin import CONFIG, overrides, write_dataset

LR = "optimizer.lr=1e-3,2e-3"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Overrides that name a tiny dataset."""
    folder = tmp_path_factory.mktemp("tiny_sweep_dataset")
    write_dataset(folder)
    named = overrides(folder, folder)
    return [override for override in named if not override.startswith("train.output_dir")]


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory):
    """A sweep of which one run kills itself at its fourth step, started twice: folder, words."""
    folder = tmp_path_factory.mktemp("sweep")
    words = ["sweep", CONFIG, "model.kill_at=null,4", "train.epochs=2", "train.eval_epochs=0"]
    words += [*data, "--output", str(folder), "--seeds", "5"]
    statuses = [main(words), main(words)]
    assert statuses == [2, 0]
    return folder, words


def weights(folder):
    return read_checkpoint(folder / "seed5" / "model_final.pth")["model"]


@pytest.mark.slow
def test_killed_sweep_goes_on_where_it_was(swept):
    folder, _ = swept
    first, second = folder / "model.kill_at=null", folder / "model.kill_at=4"
    whole, resumed = weights(first), weights(second)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert "resuming from" in (second / "seed5" / "output.txt").read_text()
    assert "resuming from" not in (first / "seed5" / "output.txt").read_text()


@pytest.mark.slow
def test_sweep_tabulates_and_draws(swept, capsys):
    folder, words = swept
    results = folder / "model.kill_at=4" / "seed5" / "evaluation" / "results.json"
    changed = json.loads(results.read_text())
    changed["bbox"]["AP"] = 12.34
    results.write_text(json.dumps(changed))
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "2 runs, 0 to be trained" in printed
    table = (folder / "sweep.md").read_text()
    assert table.startswith(f"{CONFIG} train.epochs=2 ")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert lines[0][:3] == ["model.kill_at", "AP", "by seed"]
    assert lines[3][:5] == ["4", "12.3", "12.3", "none", ""]
    assert table.splitlines()[5] in printed
    content = json.loads((folder / "sweep.json").read_text())
    assert content["config"] == CONFIG
    assert [row["values"] for row in content["rows"]] == [
        {"model.kill_at": "null"},
        {"model.kill_at": "4"},
    ]
    assert content["rows"][1]["AP"]["bbox"] == 12.34
    assert content["rows"][1]["AP"]["bbox_nms"] is None
    with Image.open(folder / "sweep.png") as picture:
        assert picture.width > 500


def finish(folder, config, used, seed, ap, seconds=()):
    """What a finished run leaves, as far as a sweep reads it."""
    run = Run("run", config, used, seed, folder / f"seed{seed}")
    (run.folder / "evaluation").mkdir(parents=True)
    results = {"bbox": {"AP": ap}, "bbox_nms": {"AP": None if ap is None else ap + 1}}
    (run.folder / "evaluation" / "results.json").write_text(json.dumps(results))
    lines = [{"iteration": 0}, *({"iteration": i, "time": time} for i, time in enumerate(seconds))]
    lines = map(json.dumps, lines)
    (run.folder / "metrics.json").write_text("\n".join(lines))
    (run.folder / "finished.json").write_text(json.dumps(run.description()))


def test_several_keys_give_a_grid_and_seeds_a_mean(tmp_path):
    for number, (lr, epochs) in enumerate(itertools.product(("0.001", "0.002"), ("2", "3"))):
        used = (f"optimizer.lr={lr}", "model.dropout=0", f"train.epochs={epochs}")
        folder = tmp_path / f"optimizer.lr={lr},train.epochs={epochs}"
        for seed in (0, 1):
            ap = None if number == 3 else 10 * number + seed
            finish(folder, CONFIG, used, seed, ap, seconds=(1.0, 0.25, 0.5))
    words = ["sweep", CONFIG, LR, "model.dropout=0", "train.epochs=2,3"]
    assert main([*words, "--output", str(tmp_path), "--seeds", "0", "1"]) == 0
    table = (tmp_path / "sweep.md").read_text().splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert cells[0] == [
        "optimizer.lr",
        "train.epochs",
        *("AP", "by seed", "AP after NMS", "by seed"),
        "s an iteration",
    ]
    assert cells[2] == ["0.001", "2", "0.5", "0.0 / 1.0", "1.5", "1.0 / 2.0", "0.500"]
    assert cells[4][:4] == ["0.002", "2", "20.5", "20.0 / 21.0"]
    assert cells[5][:4] == ["0.002", "3", "none", ""]
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert len(rows) == 8
    assert rows[-1]["AP"] == {"bbox": None, "bbox_nms": None}
    assert (tmp_path / "sweep.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("opts", "problem"),
    [
        ([LR, "train.epoch=3"], "did you mean train.epochs"),
        (["optimizer.lr=1e-3,fast"], "optimizer.lr is a float"),
        (["optimizer.lr=1e-3"], "no key has several values to try: write one as key=a,b,c"),
        (["optimizer.lr=1e-3,1e-3"], "the same value twice"),
        (["train.seed=1,2"], "give --seeds instead"),
        ([LR, "train.output_dir=x"], "give --output instead"),
        ([LR, "--seeds", "3", "3"], "--seeds: name every seed once, got [3, 3]"),
    ],
)
def test_mistakes_show_before_anything_is_trained(tmp_path, capsys, opts, problem):
    output = tmp_path / "out"
    assert main(["sweep", CONFIG, *opts, "--output", str(output)]) == 2
    assert problem in capsys.readouterr().err
    assert not output.exists()


def test_run_that_was_begun_with_other_overrides_is_refused(tmp_path):
    run = Run("run", CONFIG, ("train.epochs=2",), 0, tmp_path)
    other = Run("run", CONFIG, ("train.epochs=3",), 0, tmp_path)
    (tmp_path / "started.json").write_text(json.dumps(run.description()))
    assert not other.finished()  # nothing to be resumed from
    (tmp_path / "last_checkpoint").touch()
    assert not run.finished()
    with pytest.raises(ValueError, match="holds a run with another config or other overrides"):
        other.finished()


def test_folder_in_which_a_process_still_trains_is_refused(tmp_path, capsys):
    """Of the second run, before the first one starts; what is locked outlives a killed sweep."""
    folder = tmp_path / "optimizer.lr=0.002" / "seed0"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    try:
        assert main(["sweep", CONFIG, LR, "--output", str(tmp_path)]) == 2
    finally:
        held.kill()
        held.wait()
    assert f"{folder} is in use by another run" in capsys.readouterr().err
    assert not list(tmp_path.rglob("output.txt"))


def test_axis_of_numbers_and_of_words():
    assert _places(["4", "1e-1", "4"]) == {"4": 4.0, "1e-1": 0.1}
    assert _places(["null", "4"]) == {"null": 0.0, "4": 1.0}
    assert _places(["nan", "4"]) == {"nan": 0.0, "4": 1.0}


SAVES_LATE = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1]).write_text("started")
time.sleep(60)
"""


def test_what_is_ended_early_may_save_first(tmp_path):
    file = tmp_path / "state"
    # A training in this process has SIGTERM.
    with termination.taken_over(), pytest.raises(SystemExit), processes() as started:
        command = [sys.executable, "-c", SAVES_LATE, str(file)]
        threading.Thread(target=started.run, args=(command,)).start()
        while not file.is_file() or not file.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    assert file.read_text() == "saved"
