"""Folders of runs in which something is damaged: a page all the same, or an error that names it."""

import json

import numpy as np
import pytest

from ms_detr.cli import main
from ms_detr.evaluation import read_results
from ms_detr.report.run import read_run
from ms_detr.run_folder import read_metrics


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a rün"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.yaml").write_text("# made by: x\nmodel: 1\n")
    return folder


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\x00 no text",
        b'5\n[1]\n"text"\nnull',
        b'{"total_loss": 1.0}\n{"iteration": "1", "total_loss": 1.0}',
        b'{"iteration": 7, "total_',
    ],
)
def test_lines_that_are_none_are_passed_over(damage, folder, capsys):
    good = [{"iteration": k, "total_loss": 3.0 - k} for k in range(3)]
    lines = [json.dumps(line).encode() for line in good]
    (folder / "metrics.json").write_bytes(b"\n".join([lines[0], damage, *lines[1:]]) + b"\n")
    assert list(read_metrics(folder)) == good
    assert np.array_equal(read_run(folder).series["total_loss"].values, [3.0, 2.0, 1.0])
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("time", ["NaN", "Infinity", "1e300"])
def test_numbers_that_are_none(time, folder):
    """A dataset without objects has an AP of NaN."""
    text = f'{{"iteration": 0, "total_loss": NaN, "bbox/AP": NaN, "time": {time}}}\n'
    (folder / "metrics.json").write_text(text)
    assert read_run(folder).training_time() is None
    assert main(["report", str(folder)]) == 0
    assert ">none<" in (folder / "report.html").read_text()


@pytest.mark.parametrize("value", ['"many"', "[1]", "{}"])
def test_results_of_another_kind_are_named(value, folder, capsys):
    (folder / "evaluation" / "results.json").write_text(f'{{"bbox": {{"AP": {value}}}}}')
    with pytest.raises(ValueError, match="is damaged"):
        read_results(folder / "evaluation")
    assert main(["report", str(folder)]) == 2
    assert "results.json is damaged" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


def test_no_name_at_all(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(folder), "--output", ""]) == 2
    assert "a folder, not a file" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["", "5", "model: 1", "[", "model: {criterion: {terms: {}}}"])
def test_losses_of_a_config_without_their_weights(config, folder, tmp_path, capsys):
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.json").write_text("")
    output = tmp_path / "losses.png"
    words = ["visualize", "losses", "--run", "a", str(folder), "--output", str(output)]
    assert main(words) == 2
    assert "config.yaml is damaged, or has no weights" in capsys.readouterr().err
    assert not output.exists()
