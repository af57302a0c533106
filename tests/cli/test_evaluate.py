"""`ms-detr evaluate`: what it finds out, writes and says, and how models are compared."""

import csv
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from ms_detr.cli import main
from ms_detr.engine import compare_models
from ms_detr.engine.comparing import short_names
from ms_detr.engine.logs import NAMES
from tests.evaluation.judge import judge
from tests.evaluation.samples import resampled
from tests.tiny_checkpoint import SMALL, write_tiny
from tests.tiny_demo import on_demo_data

CONFIG = "demo/ms_detr.py"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@100")


def content_of(demo_dataset: Path) -> dict:
    content = json.loads((demo_dataset / "annotations" / "val.json").read_text())
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number  # 0 is "no match" to pycocotools
    return content


def near(content: dict, seed: int, noise: float) -> list[dict]:
    """Detections near the objects: moved, doubled, some of other classes."""
    rng = np.random.default_rng(seed)
    categories = [category["id"] for category in content["categories"]]
    found = []
    for item in content["annotations"]:
        for _ in range(2):
            box = np.array(item["bbox"]) + rng.normal(0, noise, 4)
            category = item["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
            found.append({
                "image_id": item["image_id"],
                "category_id": category,
                "bbox": box.clip(1).tolist(),
                "score": float(rng.random(dtype=np.float32)),
            })  # fmt: skip
    return found


@pytest.fixture(autouse=True)
def nothing_logs_afterwards():
    """An evaluation's log goes to the standard output of its test, which is closed for others."""
    yield
    for name in NAMES:
        for handler in logging.getLogger(name).handlers[:]:
            logging.getLogger(name).removeHandler(handler)
            handler.close()


@pytest.fixture(scope="module")
def data(demo_dataset):
    return on_demo_data(demo_dataset, "looked_at")


@pytest.fixture(scope="module")
def names(demo_dataset):
    return {c["id"]: c["name"] for c in content_of(demo_dataset)["categories"]}


@pytest.fixture(scope="module")
def files(demo_dataset, tmp_path_factory):
    """Detections of two models, the second one's further off."""
    folder = tmp_path_factory.mktemp("detections")
    content = content_of(demo_dataset)
    for name, seed, noise in (("good", 0, 1.0), ("bad", 1, 4.0)):
        (folder / f"{name}.json").write_text(json.dumps(near(content, seed, noise)))
    return folder


@pytest.fixture(scope="module")
def looked(files, data, tmp_path_factory):
    """The folder that a look at the good model's detections leaves, and what is in its JSON."""
    folder = tmp_path_factory.mktemp("a & b <looked>")
    (folder / "worst_3_99.webp").touch()  # of an earlier evaluation, of more images
    words = ["evaluate", CONFIG, str(files / "good.json"), *data, "--output", str(folder)]
    assert main([*words, "--worst", "2"]) == 0
    return folder, json.loads((folder / "evaluation.json").read_text())


def test_numbers_are_pycocotools(looked, files, demo_dataset, names):
    content, found = content_of(demo_dataset), json.loads((files / "good.json").read_text())
    expected = judge(content, found, names)
    _, numbers = looked
    assert {m: numbers["results"]["bbox"][m] for m in METRICS} == pytest.approx(
        {m: None if np.isnan(expected[m]) else expected[m] for m in METRICS}, abs=1e-9
    )
    for category, name in names.items():
        of_class = {**content, "annotations": [
            a for a in content["annotations"] if a["category_id"] == category
        ]}  # fmt: skip
        mine = judge(of_class, [f for f in found if f["category_id"] == category], names)
        for metric in METRICS:
            value = numbers["classes"][name]["bbox"][metric]
            assert (np.nan if value is None else value) == pytest.approx(
                mine[metric], abs=1e-9, nan_ok=True
            )
    by_iou = numbers["by_iou"]["bbox"]
    assert list(by_iou)[::9] == ["0.50", "0.95"]
    assert by_iou["0.50"] == pytest.approx(expected["AP50"], abs=1e-9)
    assert by_iou["0.75"] == pytest.approx(expected["AP75"], abs=1e-9)
    assert np.mean([*by_iou.values()]) == pytest.approx(expected["AP"], abs=1e-9)
    assert numbers["results"]["bbox_nms"]["AP"] > numbers["results"]["bbox"]["AP"]  # duplicates


def test_images_have_their_own_ap(looked, files, demo_dataset, names):
    content, found = content_of(demo_dataset), json.loads((files / "good.json").read_text())
    rows = list(csv.DictReader((looked[0] / "images.csv").read_text().splitlines()))
    assert [int(row["image_id"]) for row in rows] == [i["id"] for i in content["images"]]
    for place, row in enumerate(rows):
        alone = np.eye(len(rows), dtype=int)[place]
        expected = judge(*resampled(content, found, alone), names)["AP"]
        assert float(row["bbox AP"] or "nan") == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert int(row["found"]) + int(row["missed"]) == int(row["objects"])
    at = looked[1]["at_threshold"]
    assert sum(int(row["wrong"]) for row in rows) == at["wrong"] > 0
    assert at["found"] + at["missed"] == looked[1]["objects"]


def test_files_and_page(looked):
    folder, numbers = looked
    worst = {f"worst_{n}_{image}.webp" for n, image in enumerate(numbers["worst_images"], 1)}
    others = {"evaluation.html", "evaluation.json", "images.csv", "confusion.png"}
    assert {file.name for file in folder.iterdir()} == worst | others | {"precision_recall.png"}
    assert len(worst) == 2
    page = (folder / "evaluation.html").read_text()
    for words in ('id="confusion"', 'id="precision"', 'id="ious"', "data:image/png", "AP after"):
        assert words.split(" after")[0] in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "").split("<svg")[0]
    counts = np.array(numbers["confusion"]["counts"])
    assert numbers["confusion"]["classes"][-1] == "background"
    assert counts[:-1].sum() == numbers["objects"]


def test_json_goes_alone_to_the_standard_output(files, data, tmp_path, capsys):
    words = ["evaluate", CONFIG, str(files / "good.json"), *data, "--output", str(tmp_path)]
    words += ["--worst", "1"]
    assert main([*words, "--json", "-", "--threshold", "0.9", "--iou", "0.7"]) == 0
    out, err = capsys.readouterr()
    numbers = json.loads(out)
    assert numbers["threshold"] == 0.9 and numbers["confusion"]["iou"] == 0.7
    assert "AP at IoU" in err and "evaluation.html" in err
    assert main([*words, "--json", str(tmp_path / "n.json")]) == 0
    assert "AP at IoU" in capsys.readouterr().out
    assert json.loads((tmp_path / "n.json").read_text())["images"] == 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two checkpoints with random weights, of boxes and of masks."""
    folder = tmp_path_factory.mktemp("weights")
    return write_tiny(folder / "boxes.pth"), write_tiny(folder / "masks.pth", masks=True)


def test_weights_are_evaluated_and_looked_into(
    weights, data, demo_dataset, names, tmp_path, capsys
):
    words = [*SMALL, *data, "train.device=cpu", f"train.output_dir={tmp_path}"]
    words += ["dataloader.test.num_workers=0", "--worst", "1"]
    assert main(["evaluate", CONFIG, str(weights[0]), *words]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "eval_only" / "evaluation"
    assert f"{folder / 'evaluation.html'}, and beside it" in out
    numbers = json.loads((folder / "evaluation.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    assert numbers["results"]["bbox"] == results["bbox"]
    found = json.loads((folder / "coco_instances_results.json").read_text())
    expected = judge(content_of(demo_dataset), found, names)
    assert numbers["results"]["bbox"]["AR@100"] == pytest.approx(expected["AR@100"], abs=1e-9)
    assert main(["evaluate", CONFIG, str(weights[0]), *words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == numbers["results"]
    kept = "dataloader.evaluator.output_dir=null"
    assert main(["evaluate", CONFIG, str(weights[0]), *words, kept]) == 0
    assert "not looked into: dataloader.evaluator.output_dir=null" in capsys.readouterr().out


def test_files_are_compared(files, data, demo_dataset, names, tmp_path, capsys):
    words = ["evaluate", CONFIG, *data, "--compare", str(files / "good.json")]
    words += [str(files / "bad.json"), str(files / "good.json"), "--output", str(tmp_path)]
    assert main([*words, "--draws", "40", "--seed", "3", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    numbers = json.loads(out)
    assert [model["name"] for model in numbers["models"]] == ["good", "bad", "good (2)"]
    assert (numbers["draws"], numbers["seed"], numbers["images"]) == (40, 3, 12)
    content = content_of(demo_dataset)
    both = [json.loads((files / f"{name}.json").read_text()) for name in ("good", "bad")]
    whole = [judge(content, found, names)["AP"] for found in both]
    ap = numbers["compared_with_the_first"]["bbox"]["bad"]["AP"]
    assert [ap["first"], ap["second"]] == pytest.approx(whole, abs=1e-9)
    weights = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), 40)
    drawn = np.array([
        [judge(*resampled(content, found, draw), names)["AP"] for found in both]
        for draw in weights[:3]
    ])  # fmt: skip
    assert (drawn[:, 0] > drawn[:, 1]).all() and ap["better"] == 1.0
    assert ap["low"] <= min(drawn[:, 0] - drawn[:, 1])
    assert ap["high"] >= max(drawn[:, 0] - drawn[:, 1])
    same = numbers["compared_with_the_first"]["bbox"]["good (2)"]["AP"]
    assert (same["low"], same["high"], same["better"]) == (0, 0, 0.5)
    assert "none to" not in err and re.search(r"\| APl +\|( none +\|){5}", err)  # no large objects
    assert "p(good > bad)" in err and "40 draws of 12 images, seed 3" in err
    assert (tmp_path / "differences.png").stat().st_size > 5000


def test_python_compares_as_the_verb_does(files, data, tmp_path):
    compared = [files / "good.json", files / "bad.json"]
    words = ["evaluate", CONFIG, *data, "--compare", *map(str, compared), "--draws", "20"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    found = compare_models(compared, CONFIG, data, draws=20)
    assert found.numbers() == json.loads((tmp_path / "comparison.json").read_text())
    ap = found.differences["bbox"]["bad"]["AP"]
    assert ap.first - ap.second == ap.difference > 0


def test_checkpoints_are_compared(weights, data, tmp_path, capsys):
    """The second one has masks, and so another model than the config's."""
    words = ["evaluate", CONFIG, *SMALL, *data, "train.device=cpu"]
    words += ["dataloader.test.num_workers=0", "--compare", *map(str, weights)]
    assert main([*words, "--output", str(tmp_path), "--draws", "5"]) == 0
    assert "difference" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "comparison.json").read_text())
    for model, name in zip(numbers["models"], ("boxes", "masks"), strict=True):
        assert model["name"] == name and model["images_with_detections"] == 12
        results = json.loads((tmp_path / name / "results.json").read_text())
        key = "first" if name == "boxes" else "second"
        ap = numbers["compared_with_the_first"]["bbox"]["masks"]["AP50"]
        assert ap[key] == pytest.approx(results["bbox"]["AP50"], abs=1e-9)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "Expecting value"),
        ('{"images": []}', "result 0 has no image_id and no category_id"),
        ("[1, 2]", "it must be a list of results"),
        ('"text"', "it must be a list of results"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": NaN}]', "nan is no"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, "1"], "score": 1}]', "'1' is no"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1], "score": 1}]', "not enough values"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, -1, 1], "score": 1}]', "negative size"),
        (
            '[{"image_id": "x", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
            "detections of this",
        ),
        (
            '[{"image_id": 1, "category_id": 77, "bbox": [0, 0, 1, 1], "score": 1}]',
            "categories 77, which the",
        ),
        (
            '[{"image_id": 1e30, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
            "detections of this",
        ),
        (
            '[{"image_id": 1, "category_id": 1, "category_name": "a", "bbox": [0, 0, 1, 1], '
            '"score": 1}]',
            "written by `ms-detr predict`",
        ),
        (
            '[{"image_id": 777, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
            "1 images that the dataset doesn't have (ids 777)",
        ),
        (
            '[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1, '
            '"segmentation": {"size": [1, 1], "counts": "01"}}]',
            "a mask on image 1 has an RLE",
        ),
        (
            '[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1, '
            '"segmentation": [[0, 0, 1, 1, 0, 1]]}]',
            "no compressed RLE",
        ),
    ],
)
def test_files_that_are_no_detections(content, problem, data, tmp_path, capsys):
    file = tmp_path / "détections of mine.json"
    file.write_text(content)
    assert main(["evaluate", CONFIG, str(file), *data]) == 2
    assert problem in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_no_detections_and_no_objects(demo_dataset, tmp_path, capsys):
    content = content_of(demo_dataset)
    empty = tmp_path / "none.json"
    empty.write_text("[]")
    for name, annotations in (("objects", content["annotations"]), ("nothing", [])):
        file = tmp_path / f"{name}_annotations.json"
        file.write_text(json.dumps({**content, "annotations": annotations}))
        data = [
            f"dataloader.test.dataset.name=looked_at_{name}",
            f"dataloader.test.dataset.images={demo_dataset / 'val'}",
            f"dataloader.test.dataset.annotations={file}",
        ]
        words = ["evaluate", CONFIG, str(empty), *data, "--output", str(tmp_path / name)]
        words += ["--worst", "1"]
        assert main(words) == 0
        numbers = json.loads((tmp_path / name / "evaluation.json").read_text())
        assert numbers["results"]["bbox"]["AP"] == (0 if annotations else None)
        words = ["evaluate", CONFIG, *data, "--compare", str(empty), str(empty), "--draws", "3"]
        assert main([*words, "--output", str(tmp_path / name)]) == 0
        compared = json.loads((tmp_path / name / "comparison.json").read_text())
        ap = compared["compared_with_the_first"]["bbox"]["none (2)"]["AP"]
        assert (ap["difference"], ap["better"]) == ((0, 0.5) if annotations else (None, None))


def test_one_image(demo_dataset, tmp_path, capsys):
    content = content_of(demo_dataset)
    image = content["annotations"][0]["image_id"]
    content["images"] = [i for i in content["images"] if i["id"] == image]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == image]
    (tmp_path / "one.json").write_text(json.dumps(content))
    found = tmp_path / "found.json"
    found.write_text(json.dumps(near(content, 0, 1)))
    data = [
        "dataloader.test.dataset.name=looked_at_one",
        f"dataloader.test.dataset.images={demo_dataset / 'val'}",
        f"dataloader.test.dataset.annotations={tmp_path / 'one.json'}",
    ]
    assert main(["evaluate", CONFIG, str(found), *data, "--output", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert numbers["images"] == 1 and numbers["results"]["bbox"]["AP"] > 20
    words = ["evaluate", CONFIG, *data, "--compare", str(found), str(found)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "the dataset has 1 image: what a difference owes" in capsys.readouterr().err


def run_of(folder: Path, annotations: Path, images: Path, found: Path, name: str) -> Path:
    """The folder of a run, as far as a comparison reads it."""
    (folder / "evaluation").mkdir(parents=True)
    config = {"dataloader": {"test": {"dataset": {
        "_target_": "ms_detr.data.coco.coco_dataset", "name": name,
        "images": str(images), "annotations": str(annotations),
    }}}}  # fmt: skip
    (folder / "config.yaml").write_text(f"# made by: x\n{json.dumps(config)}")
    (folder / "evaluation" / "coco_instances_results.json").write_text(found.read_text())
    return folder


def test_runs_are_compared_without_a_config(files, demo_dataset, tmp_path, capsys):
    annotations, images = demo_dataset / "annotations" / "val.json", demo_dataset / "val"
    runs = [
        run_of(tmp_path / name / "seed0", annotations, images, files / f"{name}.json", "runs")
        for name in ("good", "bad")
    ]
    output = ["--output", str(tmp_path / "out"), "--draws", "10"]
    assert main(["evaluate", "--compare", *map(str, runs), *output]) == 0
    assert "p(good > bad)" in capsys.readouterr().out
    content = json.loads(annotations.read_text())
    content["annotations"] = content["annotations"][1:]
    (tmp_path / "other.json").write_text(json.dumps(content))
    other = run_of(tmp_path / "other", tmp_path / "other.json", images, files / "bad.json", "o")
    assert main(["evaluate", "--compare", str(runs[0]), str(other), *output]) == 2
    assert "models are compared on the same images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "evaluate what? CONFIG WEIGHTS, or --compare"),
        ([CONFIG], "evaluate what?"),
        (["--compare", "a.json"], "two models or more are compared, got 1"),
        (["--compare", "a.json", "b.json"], "which images? Name the config"),
        (["--compare", "a.pth", "b.json"], "a.pth is a checkpoint: name the config"),
        (["--compare", ".", "b.json"], "holds no evaluation/coco_instances_results.json"),
        ([CONFIG, "gone.json"], "there is no file gone.json of detections"),
    ],
)
def test_mistakes(words, problem, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overrides = data if words[1:] == ["gone.json"] else []
    assert main(["evaluate", *words, *overrides]) == 2
    assert problem in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to(files, data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["evaluate", CONFIG, str(files / "good.json"), *data]
    assert main([*words, "--output", str(tmp_path / "file" / "folder")]) == 2
    assert "Not a directory" in capsys.readouterr().err
    assert main([*words, "--json", str(tmp_path)]) == 2
    assert "is a folder: give a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["out/a/seed0", "out/b/seed0"], ["a", "b"]),
        (["a.json", "b/c.json"], ["a", "b_c"]),
        (["x/model_final.pth", "y/model_final.pth"], ["x", "y"]),
        (["x/y", "x/y"], ["y", "y"]),
        (["v1.5", "v1.6"], ["v1.5", "v1.6"]),
        (["out", "out/a"], ["out", "out_a"]),
    ],
)
def test_models_are_called_by_what_differs(given, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_names(given) == names
