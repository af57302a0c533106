"""`tools/evidence.py`: the rows of docs/evidence.md, and the command of each table."""

import json

import evidence
import pytest
from evidence import BLOOD, TABLES, Study, Table, main, points_of, runs_of
from omegaconf import OmegaConf
from PIL import Image

from ms_detr.config import load

STUDIES = {table.study.folder: table.study for table in TABLES.values()}


@pytest.mark.parametrize("folder", STUDIES)
def test_no_two_rows_of_a_study_are_the_same(folder):
    study = STUDIES[folder]
    rows = {}
    for name in study.rows:
        config, *overrides = study.row(name)
        cfg = load(config, overrides)
        cfg.train.output_dir = None
        text = OmegaConf.to_yaml(cfg)
        assert text not in rows, f"{name} is {rows[text]}"
        rows[text] = name


def test_every_row_stands_in_a_table():
    for study in STUDIES.values():
        shown = {
            name
            for table in TABLES.values()
            if table.study == study
            for group in table.groups
            for name in group
        }
        if study is not evidence.LONG_DEMO:  # of which some are not trained
            assert shown == {*study.rows}


@pytest.mark.parametrize("study", [BLOOD, evidence.NUCLEI])
def test_micrographs_are_evaluated_on_the_test_split(study):
    for name in study.rows:
        config, *overrides = study.row(name)
        validation = load(config).dataloader.test.dataset
        tested = load(config, overrides).dataloader.test.dataset
        for key in ("images", "annotations"):
            assert tested[key] == validation[key].replace("val", "test") != validation[key]


def test_points_over_training_images():
    for value, rows in TABLES["images"].points.items():
        for row in rows.values():
            config, *overrides = BLOOD.row(row)
            whole = load(config).dataloader.train.dataset
            dataset = load(config, overrides).dataloader.train.dataset
            expected = "train.json" if value == "205" else f"train_{value}.json"
            assert dataset.annotations == whole.annotations.replace("train.json", expected)
            assert dataset.images == whole.images
    assert [*TABLES["images"].points] == ["25", "50", "100", "205"]


@pytest.mark.parametrize("key", evidence.ASSIGNER)
def test_the_usual_point_of_a_sweep_is_the_published_row(key):
    config, *overrides = BLOOD.row("published")
    usual = load(config, overrides).model.criterion.terms.o2m.assigner[key]
    assert TABLES[key].points[str(usual)] == {"published": "published"}
    for value, rows in TABLES[key].points.items():
        config, *overrides = BLOOD.row(rows["published"])
        assert load(config, overrides).model.criterion.terms.o2m.assigner[key] == float(value)


@pytest.mark.parametrize(
    ("name", "key"), [("iterations", "train.max_iter"), ("queries", "model.num_queries")]
)
def test_points_of_a_curve(name, key):
    for value, rows in TABLES[name].points.items():
        for row in rows.values():
            config, *overrides = BLOOD.row(row)
            assert OmegaConf.select(load(config, overrides), key) == int(value)


def test_a_curve_has_what_the_runs_measured(tmp_path):
    """A run that isn't there has no point."""
    table = TABLES["images"]
    runs = runs_of(table, tmp_path, (0, 1))
    assert len(runs) == 4 * 2 * 2
    (run,) = (run for run in runs if run.name == "published_50_images" and run.seed == 1)
    assert run.folder == tmp_path / "bccd" / "published_50_images" / "seed1"
    finish(run, 31.5, 33.25)
    (point,) = points_of(table, runs)
    assert point["values"] == {"images": "50", "supervision": "published"}
    assert point["AP"] == {"bbox": 31.5, "bbox_nms": 33.25}


def finish(run, *aps):
    (run.folder / "evaluation").mkdir(parents=True)
    results = {task: {"AP": ap} for task, ap in zip(evidence.TASKS, aps, strict=True)}
    (run.folder / "evaluation" / "results.json").write_text(json.dumps(results))
    (run.folder / "metrics.json").touch()
    (run.folder / "finished.json").write_text(json.dumps(run.description()))


@pytest.fixture
def small_table(demo_dataset, monkeypatch):
    """Two groups of three rows, one of which can't be trained."""
    data = [f"dataloader.{loader}.dataset.{key}" for loader in ("train", "test") for key in KEYS]
    places = [demo_dataset / place for place in ("train", TRAIN, "val", VALIDATION)]
    overrides = tuple(f"{key}={place}" for key, place in zip(data, places, strict=True))
    rows = {
        "baseline": ("demo/deformable_detr.py",),
        "mixed": ("demo/ms_detr.py",),
        "broken": ("demo/ms_detr.py", "train.init_checkpoint=nowhere.pth"),
    }
    small = ("train.max_iter=2", "train.log_period=1", "train.eval_epochs=0.1")
    study = Study("small", rows, (*overrides, *small))
    groups = (("baseline", "mixed"), ("broken", "mixed"))
    points = {"1": {"alone": "baseline", "mixed": "mixed"}}
    monkeypatch.setitem(TABLES, "small", Table(study, groups))
    monkeypatch.setitem(TABLES, "curve", Table(study, groups[:1], "number", points))


KEYS = ("images", "annotations")
TRAIN, VALIDATION = (f"annotations/{split}.json" for split in ("train", "val"))


def test_tables_of_groups_and_a_failure(small_table, tmp_path, capsys):
    """What failed doesn't take a group's table away, and none has another one's."""
    words = ["--output", str(tmp_path), "--seeds", "3", "--draws", "20", "--jobs", "2"]
    assert main(["small", *words]) == 2
    printed, told = capsys.readouterr()
    assert "3 runs, 3 to be trained" in printed
    assert "1 runs failed, the first one in" in told and "broken" in told
    text = (tmp_path / "small.md").read_text()
    assert text in printed
    first, second = text.split("| run ")[1], text.split("| broken ")[1]
    assert "| baseline" in first and "| mixed" in first and "broken" not in first
    assert "none" in second and "| mixed" in second
    assert "above baseline" in text
    assert "no differences: the first name, broken, has no run that is finished" in text
    with Image.open(tmp_path / "small.png") as picture:
        assert picture.width > 500
    # Its rows are another table's, too: nothing is trained again, and there is a curve.
    assert main(["curve", *words]) == 0
    assert "2 runs, 0 to be trained" in capsys.readouterr().out
    assert (tmp_path / "curve.png").is_file()


def test_an_interrupt_ends_it(small_table, tmp_path, monkeypatch):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "train_missing", interrupted)
    assert main(["small", "--output", str(tmp_path)]) == 130
    assert len(calls) == 1 and not (tmp_path / "small.md").exists()


def test_data_that_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["methods", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "no file datasets/bccd/annotations/t" in told and "docs/evidence.md says where" in told
    folder = tmp_path / "datasets" / "bccd" / "annotations"
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        (folder / f"{name}.json").touch()
    assert main(["images", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "python tools/coco_subset.py datasets/bccd/annotations/train.json " in told
    assert not (tmp_path / "bccd").exists()  # nothing was begun


def test_seeds_twice(tmp_path, capsys):
    assert main(["methods", "--output", str(tmp_path), "--seeds", "0", "00"]) == 2
    assert "name every seed once" in capsys.readouterr().err
