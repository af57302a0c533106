"""`ms-detr` itself: finding verbs, and what a user sees of an error."""

import argparse
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import ms_detr
from ms_detr import cli
from ms_detr.cli._arguments import Words, path
from ms_detr.errors import ConfigError, MissingFileError, MissingPackageError


def add_verb(monkeypatch, run):
    """Let the command line find a verb that isn't a file."""
    module = types.ModuleType("ms_detr.cli.try_it", "Try it: 100% of it.\n\nMore.")
    module.add_arguments = lambda parser: parser.add_argument("--count", type=int, default=1)
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "verbs", lambda: {"try-it": module.__name__})


def test_verbs_are_the_modules_of_the_folder():
    assert cli.verbs()["doctor"] == "ms_detr.cli.doctor"
    assert not [verb for verb in cli.verbs() if verb.startswith("_") or "_" in verb]


def test_without_a_verb_it_prints_the_help(monkeypatch, capsys):
    add_verb(monkeypatch, lambda args: 0)
    assert cli.main([]) == 0
    output = capsys.readouterr().out
    assert "usage: ms-detr" in output
    assert "try-it" in output and "Try it: 100% of it." in output


def parsers(parser):
    """A parser with those of all its verbs and their parts."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def test_every_part_and_argument_says_what_it_is():
    every = {each.prog: each for each in parsers(cli.build_parser())}
    assert {"ms-detr predict", "ms-detr benchmark model", "ms-detr analyze conflict"} <= set(every)
    assert not [name for name, parser in every.items() if not parser.description]
    arguments = [(name, action) for name, parser in every.items() for action in parser._actions]
    assert not [
        (name, action.dest)
        for name, action in arguments
        if (not action.help or (action.help.startswith("default: ") and action.metavar != "CONFIG"))
        and not isinstance(action, argparse._SubParsersAction)
    ]


@pytest.mark.parametrize(
    ("words", "values", "behind"),
    [
        (["0.8"], [0.8], []),
        (["0.7", "0.2", "a.b=1", "c=2"], [0.7, 0.2], ["a.b=1", "c=2"]),
        (["1", "+a=1", "~b.c"], [1.0], ["+a=1", "~b.c"]),
    ],
)
def test_overrides_behind_several_words(monkeypatch, words, values, behind):
    seen = []
    add_verb(monkeypatch, lambda args: seen.append(args) or 0)
    module = sys.modules["ms_detr.cli.try_it"]

    def add_arguments(parser):
        parser.add_argument("opts", nargs="*")
        parser.add_argument("--split", action=Words, of=float)

    module.add_arguments = add_arguments
    assert cli.main(["try-it", "x=0", "--split", *words]) == 0
    assert (seen[0].split, seen[0].opts) == (values, ["x=0", *behind])


@pytest.mark.parametrize("words", [["half"], ["a=1"], []])
def test_several_words_that_are_none(monkeypatch, capsys, words):
    add_verb(monkeypatch, lambda args: 0)
    module = sys.modules["ms_detr.cli.try_it"]
    module.add_arguments = lambda parser: parser.add_argument("--split", action=Words, of=float)
    with pytest.raises(SystemExit):
        cli.main(["try-it", "--split", *words])
    assert "argument --split: " in capsys.readouterr().err


def test_examples_of_a_verb_keep_their_lines(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert "ms-detr train demo/ms_detr.py train.max_iter=100" in lines
    assert "ms-detr train --data FOLDER [--config CONFIG] [--split 0.8] [key=value ...]" in lines


def test_exit_status_is_the_verbs(monkeypatch):
    add_verb(monkeypatch, lambda args: args.count)
    assert cli.main(["try-it", "--count", "5"]) == 5


@pytest.mark.parametrize("kind", [ConfigError, MissingFileError, MissingPackageError])
def test_error_of_the_user_is_one_line(monkeypatch, capsys, kind):
    def run(args):
        raise kind("bad")

    add_verb(monkeypatch, run)
    assert cli.main(["try-it"]) == 2
    assert capsys.readouterr().err == "error: bad\n"
    assert cli.main(["try-it", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 55)])
def test_memory_that_does_not_suffice_is_one_line(monkeypatch, capsys, allocate):
    add_verb(monkeypatch, lambda args: allocate() is None)
    assert cli.main(["try-it"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory (") and line.endswith("smaller images at once")


@pytest.mark.parametrize("kind", [AssertionError, RuntimeError, ValueError])
def test_bug_keeps_its_traceback(monkeypatch, kind):
    def run(args):
        raise kind("a bug")

    add_verb(monkeypatch, run)
    with pytest.raises(kind, match="a bug"):
        cli.main(["try-it"])


def test_interrupted(monkeypatch, capsys):
    def run(args):
        raise KeyboardInterrupt

    add_verb(monkeypatch, run)
    assert cli.main(["try-it"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_interrupted_while_verbs_are_found(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_unknown_verb_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["dctor"])
    assert caught.value.code == 2
    assert "doctor" in capsys.readouterr().err


def test_module_runs_and_help_imports_nothing_heavy():
    command = [sys.executable, "-m", "ms_detr", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == f"ms_detr {ms_detr.__version__}\n"

    code = "import sys; from ms_detr import cli; cli.main([]); print(sorted(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded = output.splitlines()[-1]
    heavy = [name for name in ("torch", "numpy", "detectron2", "PIL") if f"'{name}'" in loaded]
    assert not heavy, "a verb imports these at its top: import them inside run()"


def test_every_path_may_start_in_the_home_folder(monkeypatch):
    """Shells leave the ~ of --output=~/x as it is."""
    monkeypatch.setenv("HOME", "/me")

    def actions(parser):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    yield from actions(inner)
            yield action

    paths = [action for action in actions(cli.build_parser()) if action.type in (path, Path)]
    assert {action.dest for action in paths} >= {"source", "target", "weights", "output"}
    for action in paths:
        assert action.type("~/a b") == Path("/me/a b"), action.dest


def test_an_unknown_home_folder_is_an_error_of_the_argument(capsys):
    with pytest.raises(SystemExit):
        cli.main(["convert", "a.pth", "~no-one/b.pth", "--from", "dino"])
    assert "argument DST: path '~no-one/b.pth': there is no home folder" in capsys.readouterr().err


def test_data_in_the_home_folder(tmp_path):
    """Detectron2's own datasets, too, at both ends of its versions."""
    code = """
from ms_detr.config import load
from detectron2.data import MetadataCatalog
print(load("demo/ms_detr.py").dataloader.test.dataset.images)
print(MetadataCatalog.get("coco_2017_val").json_file)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": "/me", "DETECTRON2_DATASETS": "~/data"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    demo, coco = result.stdout.split()
    assert demo.startswith("/me/data/") and demo.endswith("/val")
    assert coco == "/me/data/coco/annotations/instances_val2017.json"


@pytest.mark.parametrize(
    ("verb", "name", "values"),
    [
        (["benchmark", "step"], "--rounds", ["0"]),
        (["benchmark", "step"], "--steps", ["0"]),
        (["benchmark", "groups"], "--threads", ["0"]),
        (["benchmark", "criterion"], "--objects", ["7", "-1"]),
        (["compare"], "--jobs", ["0"]),
        (["compare"], "--seeds", ["0", "-1"]),
        (["sweep"], "--threads", ["0"]),
        (["visualize", "candidates"], "--count", ["0"]),
        (["visualize", "candidates"], "--top", ["0"]),
        (["visualize", "predictions"], "--count", ["0"]),
    ],
)
def test_numbers_without_sense(capsys, verb, name, values):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*verb, name, *values])
    least = 0 if name == "--seeds" else 1
    problem = f"argument {name}: must be at least {least}, got {values[-1]}"
    assert problem in capsys.readouterr().err
