"""The demo end to end, on a third of its budget."""

import json

import pytest

from ms_detr.cli import main
from ms_detr.config import load


@pytest.mark.slow
def test_a_third_of_the_demo_learns(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    budget = load("demo/ms_detr.py").train.max_iter // 3
    output = tmp_path / "run"
    words = ["demo", f"train.max_iter={budget}", f"train.output_dir={output}", "train.device=cpu"]
    assert main([*words, "--data-only"]) == 0
    assert (tmp_path / "datasets" / "ms_detr_demo" / "annotations" / "val.json").is_file()
    assert not output.exists()
    assert main(words) == 0
    printed = capfd.readouterr().out
    logged = (output / "metrics.json").read_text().splitlines()
    evaluations = sum("bbox/AP" in json.loads(line) for line in logged)
    assert printed.count("| bbox_nms |") == evaluations > 0  # each table once, the last one too
    assert (output / "pictures" / "predictions.png").is_file()
    results = json.loads((output / "evaluation" / "results.json").read_text())
    # A model that does not learn stays below 1.
    assert results["bbox"]["AP"] > 10
    # Shown again without training.
    assert main(words) == 0


def test_demo_wants_a_config_of_its_dataset(capsys):
    assert main(["demo", "--config-file", "ms_detr/ms_detr_r50_300q_12ep.py"]) == 2
    assert "isn't a config of the demo dataset" in capsys.readouterr().err
