"""`ms-detr evaluate` and files that get into each other's way, or are not what they seem."""

import json

import numpy as np
import pytest

from ms_detr.cli import main
from ms_detr.engine.comparing import distinct
from tests.evaluation.judge import judge
from tests.tiny_demo import on_demo_data

from .test_evaluate import CONFIG, content_of, near, nothing_logs_afterwards

assert nothing_logs_afterwards  # a fixture that every test here takes


@pytest.fixture(scope="module")
def data(demo_dataset):
    return on_demo_data(demo_dataset, "in_the_way")


@pytest.fixture
def found(demo_dataset):
    return near(content_of(demo_dataset), 0, 2.0)


def written(folder, name, found):
    file = folder / name
    file.write_text(json.dumps(found))
    return file


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("evaluation.json", []),
        ("found.json", ["--json", "found.json"]),
        ("evaluation.json", ["--output", "."]),
    ],
)
def test_detections_are_not_written_over(name, more, found, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, name, found)
    assert main(["evaluate", CONFIG, name, *data, "--worst", "1", *more]) == 2
    assert f"{name} would be written over" in capsys.readouterr().err
    assert json.loads(file.read_text()) == found
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "more", [["--output", "."], ["--output", "out", "--json", "comparison.json"]]
)
def test_compared_detections_are_not_written_over(more, found, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = [written(tmp_path, name, found) for name in ("a.json", "comparison.json")]
    words = ["evaluate", CONFIG, *data, "--compare", *(file.name for file in files), "--draws", "2"]
    assert main([*words, *more]) == 2
    assert "comparison.json would be written over" in capsys.readouterr().err
    assert all(json.loads(file.read_text()) == found for file in files)


def test_checkpoints_of_one_name_predict_into_places_of_their_own(
    data, demo_dataset, tmp_path, monkeypatch, capsys
):
    """model.pth and model.safetensors are two models, as are a_b.pth and a/b.pth."""
    places = []

    def evaluate(cfg, path, origin):
        places.append(cfg.dataloader.evaluator.output_dir)
        (tmp_path / places[-1]).mkdir(parents=True)
        noise = 1.0 if str(path).endswith(".pth") else 6.0
        content = near(content_of(demo_dataset), 0, noise)
        written(tmp_path / places[-1], "coco_instances_results.json", content)

    monkeypatch.setattr("ms_detr.engine.comparing.evaluate", evaluate)
    monkeypatch.chdir(tmp_path)
    for name in ("model.pth", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    words = ["evaluate", CONFIG, *data, "--compare", "model.pth", "model.safetensors"]
    assert main([*words, "--output", "out", "--draws", "2", "--json", "-"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert len({*places}) == 2
    assert [model["name"] for model in numbers["models"]] == ["model", "model (2)"]
    assert numbers["compared_with_the_first"]["bbox"]["model (2)"]["AP"]["difference"] > 1


def test_a_file_that_is_not_there_is_told_before_a_checkpoint_predicts(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("ms_detr.engine.comparing.evaluate", lambda *_: pytest.fail("predicts"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(b"")
    words = ["evaluate", CONFIG, *data, "--compare", "model.pth", "gone.json"]
    assert main([*words, "--output", "out"]) == 2
    assert "there is no file gone.json of detections" in capsys.readouterr().err


def test_names_are_made_distinct():
    assert distinct(["a", "b"]) == ["a", "b"]
    assert distinct(["a", "a", "a (2)", "a"]) == ["a", "a (2)", "a (2) (2)", "a (3)"]


def test_scores_are_told_apart_as_in_the_file(demo_dataset, data, found, tmp_path):
    """Some hundred scores between 1 - 1e-8 and 1, all of which are 1 in float32."""
    content = content_of(demo_dataset)
    names = {c["id"]: c["name"] for c in content["categories"]}
    for one in found:
        one["score"] = 1 - 1e-8 * one["score"]
    file = written(tmp_path, "found.json", found)
    words = ["evaluate", CONFIG, str(file), *data, "--worst", "1", "--nms", "1"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    expected = judge(content, found, names)
    for task in ("bbox", "bbox_nms"):
        for metric in ("AP", "AP50", "AR@1", "AR@10"):
            assert numbers["results"][task][metric] == pytest.approx(expected[metric], abs=1e-9)


def test_low_scores_count_where_the_threshold_is_low(demo_dataset, data, found, tmp_path):
    content = content_of(demo_dataset)
    for one in found:
        one["score"] *= 0.04
    file = written(tmp_path, "found.json", found)
    words = ["evaluate", CONFIG, str(file), *data, "--worst", "1", "--threshold", "0.001"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    at = numbers["at_threshold"]
    counts = np.array(numbers["confusion"]["counts"])
    crowds = sum(x["iscrowd"] for x in content["annotations"])
    assert at["found"] + at["missed"] == len(content["annotations"]) - crowds
    assert 0.5 * np.trace(counts) < at["found"] <= 1.5 * np.trace(counts) and np.trace(counts) > 10
    assert at["wrong"] > 10


def test_how_much_each_model_has_found_is_told(demo_dataset, data, found, tmp_path, capsys):
    """A file of other images than the first one's looks like a model that finds nothing there."""
    first = min(one["image_id"] for one in found)
    other = [one for one in found if one["image_id"] == first]
    files = [written(tmp_path, f"{n}.json", x) for n, x in (("all", found), ("few", other))]
    words = ["evaluate", CONFIG, *data, "--compare", *map(str, files), "--draws", "2"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    assert f"few: {len(other)} detections on 1 of 12 images" in capsys.readouterr().out
