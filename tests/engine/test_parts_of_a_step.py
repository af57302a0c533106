"""A step in parts, and of several processes, is the step of the whole batch."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ms_detr.engine.parts import in_parts, step_of
from ms_detr.errors import ConfigError
from ms_detr.structures import Step

from ..modeling.support import ROOT, make_input
from .parts_of_a_step import COUNTS, METHODS, gradients, tame_chance

# Methods whose parts count what they have themselves: they aren't the whole batch's.
COUNT_THEIR_OWN = {"co", "normalised"}


@pytest.fixture(scope="module")
def whole():
    """Gradients and losses of the whole batch at once; everything else is held against them."""
    found = {}

    def of(method):
        if method not in found:
            found[method] = gradients(method, 0, COUNTS, 1)
        return found[method]

    with pytest.MonkeyPatch.context() as patch:
        tame_chance(patch.setattr)
        yield of


def assert_same(found, expected):
    (gradient, losses), (wanted, wanted_losses) = found, expected
    assert gradient.keys() == wanted.keys() and losses.keys() == wanted_losses.keys()
    for name, value in wanted_losses.items():
        assert losses[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
    for name, value in wanted.items():
        scale = max(value.abs().max().item(), 1e-6)
        assert (gradient[name] - value).abs().max().item() < 1e-6 * scale, name


@pytest.mark.parametrize(
    "method", sorted(METHODS.keys() - COUNT_THEIR_OWN)
)  # whose parts count by themselves
@pytest.mark.parametrize("parts", [2, 4])  # of four, one has no objects
def test_parts_add_up_to_the_whole(method, parts, whole):
    assert_same(gradients(method, 0, COUNTS, parts), whole(method))


def test_without_the_whole_in_view_they_would_not(whole):
    """Parts that are divided by what each of them holds: what this guards against."""
    expected, _ = whole("ms_detr")
    alone = [gradients("ms_detr", first, COUNTS[first : first + 2], 1)[0] for first in (0, 2)]
    name = "detector.decoder.class_heads.0.weight"
    mean = sum(found[name] for found in alone) / 2
    assert (mean - expected[name]).abs().max() > 0.05 * expected[name].abs().max()


def test_two_processes_are_one(tmp_path, whole):
    """But for DN-DETR, as published: there every process divides by its own objects."""
    cases = [(method, parts, []) for method in METHODS if method != "dn" for parts in (1, 2)]
    for method in COUNT_THEIR_OWN:
        cases.remove((method, 2, []))
    cases.append(("dino", 2, ["encoder", "decoder", "backbone"]))  # activation checkpointing
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(rank):
        words = [str(rank), str(tmp_path / "meeting"), str(tmp_path / "out"), json.dumps(cases)]
        command = [sys.executable, "-m", "tests.engine.parts_of_a_step", *words]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(start, range(2)))
    found = torch.load(tmp_path / "out")
    for (method, *_), made in zip(cases, found, strict=True):
        assert_same(made, whole(method))


def test_parts_are_of_nearly_one_size_and_know_the_step():
    batch = [make_input(32, 32, labels=[0] * count, seed=count) for count in (2, 0, 5, 1, 1)]
    parts = in_parts(batch, 2, 0.5)
    assert [len(part) for part in parts] == [2, 3]
    assert [x["file_name"] for part in parts for x in part] == [x["file_name"] for x in batch]
    step = Step(objects=9, own=9, most=5, images=5, done=0.5)
    assert step_of(batch, 0.5) == step and all(x["step"] == step for part in parts for x in part)
    assert "step" not in batch[0]
    assert in_parts([{"image_id": 1}], 1, 0.0) == [[{"image_id": 1}]]


@pytest.mark.parametrize("count", [0, 3])
def test_more_parts_than_images(count):
    with pytest.raises(ConfigError, match=rf"accumulate={count} splits the 2 images of a process"):
        in_parts([make_input(32, 32), make_input(32, 32)], count, 0.0)
