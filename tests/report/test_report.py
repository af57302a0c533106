"""What a report says, against what the run's files say; and runs that have only begun."""

import datetime
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.data import coco_dataset, kept_truth
from ms_detr.engine import train
from ms_detr.errors import DataError
from ms_detr.evaluation.detections import Detections
from ms_detr.evaluation.reading import read_detections
from ms_detr.report import write_report
from ms_detr.report.curves import MOST, draw
from ms_detr.report.duplicates import count_duplicates
from ms_detr.report.images import worst_and_best
from ms_detr.report.log import read_log
from ms_detr.report.matching import ImageMatches, best_threshold, match_images
from ms_detr.report.run import Series, read_run
from tests.engine.standin import CONFIG, overrides

from .conftest import SCRIPT


class Page(HTMLParser):
    """Tags, ids and the text of each table's cells."""

    def __init__(self, text):
        super().__init__()
        self.in_cell = False
        self.tags, self.ids, self.sources, self.rows, self.words = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.sources += [values[k] for k in ("src", "href", "xlink:href") if k in values]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, name):
        return next(row for row in self.rows if row and row[0] == name)


@pytest.fixture(scope="module")
def page(run_folder):
    return Page((run_folder / "report.html").read_text())


@pytest.mark.parametrize("seed", [0, 4])  # after NMS AP is higher, or lower
def test_the_numbers_are_those_of_the_results(run_folder, tmp_path, seed):
    """Not those of the stand-in, which finds nothing."""
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    rng = np.random.default_rng(seed)
    for folder in ("evaluation", "evaluation_ema"):
        file = copy / folder / "results.json"
        results = json.loads(file.read_text())
        for values in results.values():
            values.update({k: rng.uniform(0, 100) for k, v in values.items() if v is not None})
        file.write_text(json.dumps(results))
    page = Page(write_report(copy).read_text())
    for folder, prefix in (("evaluation", ""), ("evaluation_ema", "ema/")):
        results = json.loads((copy / folder / "results.json").read_text())
        for task in ("bbox", "bbox_nms"):
            values = [results[task][m] for m in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
            shown = ["none" if value is None else f"{value:.1f}" for value in values]
            assert page.row(f"{prefix}{task}")[1:] == shown
    results = json.loads((copy / "evaluation" / "results.json").read_text())
    for name, objects in ((SCRIPT, 11), ("bar", 10)):  # one bar is a crowd
        shown = [f"{results[task][f'AP-{name}']:.1f}" for task in ("bbox", "bbox_nms")]
        assert page.row(name)[1:4] == [str(objects), *shown]
    first, after = (results[task]["AP"] for task in ("bbox", "bbox_nms"))
    words = " ".join("".join(page.words).split())
    assert f"AP is {first:.2f}, and {after:.2f} after" in words
    gain = (
        f"the difference, {after - first:.2f}, is what" if after > first else "NMS gains nothing."
    )
    assert (after > first) == (seed == 0)
    assert gain in words


def test_it_needs_nothing_else_and_runs_nothing(page):
    assert "script" not in page.tags and "link" not in page.tags
    assert page.sources
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in page.sources)
    assert len(page.ids) == len(set(page.ids))
    text = "".join(page.words)
    assert SCRIPT in text and "a run & its <folder>" in text  # as letters


def test_sections_and_curves(run_folder, page):
    sections = {"curves", "sizes", "classes", "duplicates", "images", "config", "environment"}
    assert sections <= set(page.ids)
    text = "".join(page.words)
    for words in ("losses by term", "o2m", "ema/bbox", "learning rate", "norm of the gradient"):
        assert words in text
    assert "train.eval_epochs=1" in text and "standin_config.py" in text and "PyTorch" in text
    assert page.tags.count("svg") == 6
    run = read_run(run_folder)
    assert run.finished and run.iterations == 9 and run.log.starts == 1
    assert run.series["bbox/AP"].iterations.tolist() == [3, 6, 9]
    losses = [json.loads(line) for line in (run_folder / "metrics.json").read_text().splitlines()]
    expected = [line["total_loss"] for line in losses if "total_loss" in line]
    assert run.series["total_loss"].values.tolist() == expected


def as_pycocotools_matches(annotations, predictions, threshold):
    """Objects found, missed and detections wrong of each image, by pycocotools."""
    content = json.loads(annotations.read_text())
    for item in content["annotations"]:
        item["id"] += 1  # to pycocotools 0 means "no match"
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    found = json.loads(predictions.read_text())
    found = [each for each in found if each["score"] >= threshold]
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    counts = {image: [0, 0, 0] for image in truth.getImgIds()}
    for each in filter(None, evaluation.evalImgs):
        right = (each["dtMatches"][0] > 0) & ~each["dtIgnore"][0]
        wrong = (each["dtMatches"][0] == 0) & ~each["dtIgnore"][0]
        objects = int((np.array(each["gtIgnore"]) == 0).sum())
        counts[each["image_id"]][0] += int(right.sum())
        counts[each["image_id"]][1] += objects - int(right.sum())
        counts[each["image_id"]][2] += int(wrong.sum())
    return counts


@pytest.fixture(scope="module")
def rough(data, tmp_path_factory):
    """The dataset's objects, and detections near them: moved, doubled, of other classes."""
    rng = np.random.default_rng(3)
    content = json.loads((data / "annotations.json").read_text())
    found = []
    for item in content["annotations"]:
        for _ in range(3):
            box = (np.array(item["bbox"]) + rng.normal(0, 1.5, 4)).clip(1).tolist()
            category = item["category_id"] if rng.random() < 0.8 else 10 - item["category_id"]
            score = float(rng.random())
            shared = {"image_id": item["image_id"], "category_id": category}
            found.append(shared | {"bbox": box, "score": score})
    folder = tmp_path_factory.mktemp("rough")
    (folder / "coco_instances_results.json").write_text(json.dumps(found))
    name = f"{data.name}_rough"
    coco_dataset(name, data / "images", data / "annotations.json", evaluated=True)
    truth = kept_truth(name)
    classes = {category: k for k, category in enumerate(truth.category_ids)}
    return folder, truth, read_detections(folder, classes, 0.5), found


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.6])
def test_objects_are_found_as_pycocotools_finds_them(data, rough, threshold, capsys):
    folder, truth, detections, _ = rough
    predictions = folder / "coco_instances_results.json"
    expected = as_pycocotools_matches(data / "annotations.json", predictions, threshold)
    matches = match_images(truth, detections)
    tallies = {image: each.tally(threshold) for image, each in matches.items()}
    assert {k: [t.found, t.missed, t.wrong] for k, t in tallies.items()} == expected
    assert sum(t.found for t in tallies.values()) > 5 and sum(t.wrong for t in tallies.values()) > 5


def test_duplicates_are_those_of_nms(rough):
    _, _, detections, found = rough
    left = []
    for image in {each["image_id"] for each in found}:
        here = [each for each in found if each["image_id"] == image]
        boxes = torch.tensor([each["bbox"] for each in here])
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([each["score"] for each in here])
        kept = batched_nms(boxes, scores, torch.tensor([e["category_id"] for e in here]), 0.5)
        left += scores[kept].tolist()
    counted = count_duplicates(detections, 12, 0.5)
    for score, before, after in counted.rows:
        assert before == pytest.approx(sum(e["score"] >= score for e in found) / 12)
        assert after == pytest.approx(sum(s >= score for s in left) / 12)
    assert counted.rows[0][1] > counted.rows[0][2] > 0


def test_detections_of_another_dataset_are_an_error(rough):
    with pytest.raises(DataError, match=r"results.json doesn't hold .* categories 7, which"):
        read_detections(rough[0], {3: 0}, 0.5)


def test_worst_and_best():
    def image(right, objects):
        scores = np.linspace(0.9, 0.5, len(right))
        return ImageMatches(scores, np.array(right, bool), objects)

    matches = {
        1: image([1, 1], 2),
        2: image([], 0),
        3: image([0, 0], 1),
        4: image([0], 3),
        5: image([1, 0], 1),
        6: image([1], 1),
    }
    assert worst_and_best(matches, 0.3, 2) == ([4, 3], [1, 6])
    assert worst_and_best(matches, 0.3, 9) == ([4, 3, 5], [1, 6])
    assert worst_and_best({}, 0.3) == ([], [])
    # Above 0.5 the second detections of 5 and 1 are gone: F is 2 * 3 / (2 * 3 + 5 + 2).
    assert best_threshold({5: matches[5]}) == 0.55
    assert matches[5].tally(0.55).f == 1.0 and matches[2].tally(0.3).f == 1.0


def test_time_and_warnings_of_a_log():
    log = read_log(
        "[12/31 23:59:50] first\n[99/99 99:99:99] no date\n"
        "[12/31 23:59:50] environment:\nPyTorch  2\n"
        "[01/01 00:00:10] WARNING (ms_detr.x): odd\n  indeed\n"
        "[01/03 00:00:00] environment:\nPyTorch  3\n"
        "[01/03 00:01:00] WARNING (ms_detr.x): odd\n  indeed\n"
        "[01/03 00:01:05] ERROR (ms_detr.y): worse\n"
    )
    assert log.environment == "PyTorch  3" and log.starts == 2
    assert log.wall == datetime.timedelta(seconds=20 + 65)
    assert log.warnings == ("WARNING (ms_detr.x): odd\n  indeed", "ERROR (ms_detr.y): worse")


def test_long_lines_are_means():
    series = Series(np.arange(10 * MOST) + 1, np.ones(10 * MOST))
    curve = draw("x", {"a": series}, "y")
    assert curve.svg.count(" L ") < 2 * MOST + 100
    assert curve.words == f"x: a 1 at 1, 1 at {10 * MOST}"


def test_a_run_that_has_only_begun(run_folder, tmp_path, capsys):
    shutil.copy(run_folder / "config.yaml", tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    text = "".join(page.words)
    assert "not finished" in text and "Nothing has been logged yet" in text
    assert "svg" not in page.tags and "nothing was evaluated" in text
    (tmp_path / "metrics.json").write_text('{"iteration": 4, "total_loss": 2.0}\n{"itera')
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "b.html")]) == 0
    assert "losses by term: total 2 at 5" in (tmp_path / "b.html").read_text()


def test_images_that_are_gone_leave_the_rest(run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("/images", "/elsewhere"))
    page = Page(write_report(folder).read_text())
    assert "there is no image folder" in "".join(page.words)
    assert "img" not in page.tags and page.tags.count("svg") == 5
    (folder / "config.yaml").write_text(config.replace("coco.coco_dataset", "own.dataset"))
    assert "which a report does not call" in write_report(folder).read_text()


def test_an_average_of_an_earlier_start_is_not_shown_as_the_last(run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    assert any(row[:1] == ["ema/bbox"] for row in Page(write_report(folder).read_text()).rows)
    config = (folder / "config.yaml").read_text()
    assert "decay: 0.5" in config
    (folder / "config.yaml").write_text(config.replace("decay: 0.5", "decay: null"))
    page = Page(write_report(folder).read_text())
    assert "ema/bbox" not in read_run(folder).results and "ema/bbox/AP" not in page.words
    assert not any(row[:1] == ["ema/bbox"] for row in page.rows)


def test_what_stands_in_the_way_is_named(run_folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "evaluation").mkdir()
    shutil.copy(run_folder / "config.yaml", tmp_path)
    for text in ('{"bbox": {"AP', '{"bbox": 3}'):
        (tmp_path / "evaluation" / "results.json").write_text(text)
        assert main(["report", str(tmp_path)]) == 2
        assert "results.json is damaged (" in capsys.readouterr().err
    (tmp_path / "evaluation" / "results.json").unlink()
    # Root may write everywhere.
    monkeypatch.setattr("ms_detr.report.rendering.os.access", lambda *_: False)
    monkeypatch.setattr("ms_detr.report.page.render", lambda *_, **__: pytest.fail("drawn in vain"))
    assert main(["report", str(tmp_path)]) == 2
    assert "name another place, --output FILE" in capsys.readouterr().err


def test_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "config.yaml is missing: give the train.output_dir of a run" in capsys.readouterr().err


def test_a_report_that_fails_ends_no_training(data, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of ink")

    monkeypatch.setattr("ms_detr.report.page.render", fail)
    options = overrides(data, tmp_path / "out", "train.max_iter=1", "train.report=true")
    assert "bbox" in train(load(CONFIG, options))
    text = (tmp_path / "out" / "log.txt").read_text()
    assert "no report of this run (out of ink); `ms-detr report" in text
    assert not (tmp_path / "out" / "report.html").exists()


def test_no_report_where_none_is_wanted(data, tmp_path):
    options = overrides(data, tmp_path / "out", "train.max_iter=1")  # the stand-in's default
    train(load(CONFIG, options))
    assert not (tmp_path / "out" / "report.html").exists()


def test_detections_without_any(tmp_path):
    (tmp_path / "coco_instances_results.json").write_text("[]")
    found = read_detections(tmp_path, {}, 0.5)
    assert isinstance(found, Detections) and len(found.scores) == 0
