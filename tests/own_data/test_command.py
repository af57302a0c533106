"""`ms-detr train --data`, from a folder to predictions; interrupted; by keys."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ms_detr
from ms_detr.cli import main
from ms_detr.config import load
from tests.data.formats.support import voc_object, write_image, write_xml

from . import forms

TINY = [
    "train.max_iter=2",
    "train.report=false",
    "train.pictures=0",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=1",
    "model.num_queries=20",
    "train.device=cpu",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_from_a_folder_to_predictions(tmp_path, capsys):
    """With blanks and other scripts in the paths."""
    folder = tmp_path / "犬と猫 (2026)"
    forms.voc(folder)
    assert main(["train", "--data", str(folder), *TINY]) == 0
    run = tmp_path / "output" / "犬と猫_2026"
    told = capsys.readouterr().out
    for line in (
        "voc, 2 classes (cat, dog)",
        "recipe   demo/small.py  [--config]",
        "weights  none: from scratch",
        f"config   output/{run.name}/config.py",
    ):
        assert line in told
    weights = str(run / "model_final.pth")
    assert main(["evaluate", str(run / "config.py"), weights]) == 0
    assert (run / "eval_only" / "evaluation" / "results.json").is_file()
    image = str(folder / "JPEGImages" / "a0.jpg")
    assert main(["predict", image, "--weights", weights, "--output", "found"]) == 0
    assert ms_detr.load_model(weights).class_names == ("cat", "dog")
    # A second run isn't begun in its place, and this one is gone on with.
    assert main(["train", "--data", str(folder), *TINY]) == 2
    assert "holds checkpoints of an earlier run" in capsys.readouterr().err
    assert main(["train", "--data", str(folder), "--resume", "train.max_iter=3"]) == 0
    assert "going on with" in capsys.readouterr().out


def test_in_python(tmp_path):
    forms.coco(tmp_path / "data")
    results = ms_detr.train_on("data", overrides=[*TINY, "train.output_dir=runs/a"])
    assert 0 <= results["bbox"]["AP"] <= 100
    assert (tmp_path / "runs/a/config.py").is_file()


def configs(tmp_path, monkeypatch, *commands):
    """The configs that trainings would take."""
    taken = []
    monkeypatch.setattr("ms_detr.engine.launch", lambda task, **_: taken.append(task))
    for words in commands:
        assert main(["train", *words]) == 0
    return [load(task.config, task.overrides) for task in taken]


def test_two_keys_do_the_same(tmp_path, monkeypatch):
    """As train_net.py is called."""
    forms.voc(tmp_path / "data")
    config = "demo/small.py"
    one, two = configs(
        tmp_path,
        monkeypatch,
        ["--data", "data", "--split", "0.5", "train.output_dir=a/x", "--config", config,
         "--voc-boxes", "edges", "--difficult", "keep", "--classes", "dog", "cat",
         "train.max_iter=7", "train.seed=3"],
        ["--config-file", config, "dataloader.own.folder=data", "dataloader.own.split=0.5",
         "dataloader.own.voc_boxes=edges", "dataloader.own.classes=[dog,cat]",
         "dataloader.own.difficult=keep", "train.output_dir=b/x", "train.max_iter=7",
         "train.seed=3"],
    )  # fmt: skip
    folders = {Path(cfg.dataloader.train.dataset.images).parent for cfg in (one, two)}
    assert {path.name for path in folders} == {folders.pop().name}
    for cfg in (one, two):
        cfg.train.output_dir = ""
        for loader in (cfg.dataloader.train, cfg.dataloader.test):
            loader.dataset.images = loader.dataset.annotations = ""
    assert one == two


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo/small.py", "--split", "0.5"], "go with --data FOLDER"),
        (["demo/small.py", "--weights", "x.pth"], "go with --data FOLDER"),
        (["--data", "data", "dataloader.own.folder=data"], "says the same as an argument"),
        (["--data", "data", "--eval-only"], "ms-detr evaluate takes the config.py"),
        (["--data", "data", "--config", "nothing.py"], "config nothing.py not found"),
        (["--data", "nothing"], "nothing is not there"),
        (["--data", "data", "--split", "2"], "give the share of train"),
        (["demo/small.py", "--voc-boxes", "edges"], "go with --data FOLDER"),
    ],
)
def test_contradictions(words, message, tmp_path, capsys):
    forms.voc(tmp_path / "data")
    assert main(["train", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_a_config_that_names_the_folder_itself(tmp_path, capsys):
    Path("mine.py").write_text(
        "from ms_detr.recipes.demo import on_own_images\n"
        "model, dataloader, train, optimizer, lr_multiplier = on_own_images()\n"
        "dataloader.own.folder = 'data'\n"
    )
    assert main(["train", "mine.py"]) == 2
    assert "takes it on the command line" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_runs_folder(tmp_path, capsys):
    forms.voc(tmp_path / "data")
    Path("output").touch()
    assert main(["train", "--data", "data", *TINY]) == 2
    assert "output" in capsys.readouterr().err


def test_data_that_cant_be_written_to(tmp_path, monkeypatch):
    forms.voc(tmp_path / "data")
    for path in (tmp_path / "data").rglob("*"):
        if path.is_dir():
            path.chmod(0o500)
    configs(tmp_path, monkeypatch, ["--data", "data", *TINY])


@pytest.mark.slow
def test_ctrl_c_while_converting_leaves_nothing(tmp_path, root):
    folder = tmp_path / "data"
    for i in range(400):
        write_image(folder / f"{i}.png", i)
        write_xml(folder / f"{i}.xml", voc_object("cat", (1, 1, 20, 20)))
    slow = (
        "import time; from ms_detr.data.formats import importing; put = importing._put; "
        "importing._put = lambda *a: (time.sleep(0.05), put(*a)); "
        "from ms_detr.cli import main; raise SystemExit(main(['train', '--data', 'data']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    kept = tmp_path / "output" / "converted"
    deadline = time.monotonic() + 120
    while not list(kept.glob("*.partial/train/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, err.strip().splitlines()[-1]) == (130, "interrupted")
    assert [path.name for path in kept.iterdir()] == ["lock"]
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["converted"]
