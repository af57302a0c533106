"""`ms-detr train` and `ms-detr evaluate`: what they are asked for, and that they do it."""

import re

import pytest

from ms_detr.cli import build_parser, main
from ms_detr.cli._tasks import Evaluation, Training
from ms_detr.cli.train import task
from ms_detr.errors import ConfigError
from tests.engine.standin import CONFIG, overrides, write_dataset


def asked(*words):
    """The task of a command line."""
    parser = build_parser()
    args, left = parser.parse_known_args(["train", *words])
    args.opts += left
    return task(args)


@pytest.mark.parametrize(
    "words",
    [
        ("a.py", "x=1", "~y", "--resume"),
        ("a.py", "--resume", "x=1", "~y"),
        ("--resume", "a.py", "x=1", "~y"),
        ("--config-file", "a.py", "--resume", "x=1", "~y"),
        ("--resume", "x=1", "~y", "--config-file=a.py"),
        ("--config-file", "a.py", "x=1", "--resume", "~y"),
    ],
)
def test_overrides_stand_anywhere(words):
    assert asked(*words) == Training("a.py", ("x=1", "~y"), True)


def test_the_weights_of_an_evaluation():
    named = "train.init_checkpoint=a.pth"
    assert asked(CONFIG, named, "--eval-only") == Evaluation(CONFIG, (named,), "a.pth")
    assert asked(CONFIG, "--eval-only", "--resume") == Evaluation(CONFIG, (), None)
    with pytest.raises(ConfigError, match="--resume evaluates the last checkpoint, train.init_c"):
        asked(CONFIG, named, "--eval-only", "--resume")
    with pytest.raises(ConfigError, match="--eval-only needs a trained model: train.init_check"):
        asked(CONFIG, "--eval-only", "train.output_dir=x")


@pytest.mark.parametrize(
    ("minutes", "seconds"),
    [("0.05", 3), ("1000000", 6e7), ("1000001", 1800), ("null", 1800)],
)
def test_how_long_processes_wait(minutes, seconds, monkeypatch):
    """What the run will refuse has the default's time to do so."""
    waits = []
    monkeypatch.setattr("ms_detr.engine.launch", lambda *_, timeout, **__: waits.append(timeout))
    assert main(["train", CONFIG, f"+train.timeout_minutes={minutes}"]) == 0
    assert [wait.total_seconds() for wait in waits] == [seconds]


@pytest.fixture
def options(tmp_path):
    """Overrides that name a tiny dataset and an output folder."""
    folder = tmp_path / f"data_{tmp_path.name}"
    write_dataset(folder)
    return overrides(folder, tmp_path / "out", "train.max_iter=1")


def test_trained_and_evaluated(options, tmp_path, capsys):
    assert main(["train", CONFIG, *options]) == 0
    weights = str(tmp_path / "out" / "model_final.pth")
    assert main(["evaluate", CONFIG, weights, *options]) == 0
    results = tmp_path / "out" / "evaluation" / "results.json"
    assert re.search(r"\|\n\n\| task +\| AR@1", capsys.readouterr().out)  # tables stand apart
    alone = tmp_path / "out" / "eval_only" / "evaluation" / "results.json"
    assert alone.read_text() == results.read_text()
    assert main(["train", CONFIG, *options]) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert main(["evaluate", CONFIG, weights, "train.init_checkpoint=b.pth"]) == 2
    assert "give WEIGHTS instead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["train"], "error: which config? Give one of"),
        (["train", "demo/ms_dter.py"], "the nearest are configs/demo/ms_detr.py"),
        (["train", "my photos"], "is a folder, no .py file; if it holds images and annotations"),
        (["train", "my photos"], "on: ms-detr train --data 'my photos'\n"),
        (["evaluate", "demo/ms_detr.py", "gone.pth"], "checkpoint gone.pth not found"),
        (["train", "demo/ms_detr.py"], "train.json. It is generated: ms-detr demo --data-only.\n"),
    ],
)
def test_mistakes(words, problem, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    assert main(words) == 2
    assert problem in capsys.readouterr().err


def test_an_unknown_flag_is_no_override(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", CONFIG, "--resmue", "x=1"])
    assert "unrecognized arguments: --resmue x=1" in capsys.readouterr().err
