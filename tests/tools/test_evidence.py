"""`tools/evidence.py`: the rows of docs/evidence.md, and the command of each table."""

import json

import evidence
import pytest
from evidence import BLOOD, SEEDS, TABLES, commands, main, measured
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


def test_blood_cells_are_evaluated_on_the_test_split():
    for name in BLOOD.rows:
        config, *overrides = BLOOD.row(name)
        dataset = load(config, overrides).dataloader.test.dataset
        assert dataset.annotations == "datasets/bccd/annotations/test.json"
        assert dataset.images == "datasets/bccd/test"


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


def test_groups_are_compared_with_their_first(tmp_path):
    made = list(commands(TABLES["family"], tmp_path, SEEDS, "--jobs", "2"))
    assert len(made) == len(evidence.FAMILY)
    words = made[1]
    assert words[:5] == ["compare", "--output", str(tmp_path / "bccd"), "--seeds", "0"]
    names = [words[at + 1] for at, word in enumerate(words) if word == "--run"]
    assert names == ["dino", "ms_detr_dino"]


def test_a_curve_has_what_the_runs_measured(tmp_path):
    """A run that isn't there has no point."""
    table = TABLES["images"]
    config, *overrides = BLOOD.row("published_50_images")
    run = tmp_path / "bccd" / "published_50_images" / "seed1"
    (run / "evaluation").mkdir(parents=True)
    receipt = {"config": config, "overrides": overrides, "seed": 1}
    (run / "finished.json").write_text(json.dumps(receipt))
    results = {"bbox": {"AP": 31.5}, "bbox_nms": {"AP": 33.25}}
    (run / "evaluation" / "results.json").write_text(json.dumps(results))
    rows = measured(table, tmp_path, ("0", "1"))
    assert len(rows) == 4 * 2 * 2
    (row,) = (row for row in rows if row["AP"]["bbox"] is not None)
    assert row["values"] == {"images": "50", "supervision": "published"}
    assert row["AP"] == {"bbox": 31.5, "bbox_nms": 33.25}


def test_a_table_has_all_groups_and_a_failure_shows(tmp_path, monkeypatch, capsys):
    calls = []

    def compare(words):
        calls.append(words)
        (tmp_path / "bccd").mkdir(exist_ok=True)
        (tmp_path / "bccd" / "compare.md").write_text(f"table {len(calls)}\n")
        return 1 if len(calls) == 2 else 0

    monkeypatch.setattr(evidence, "ms_detr", compare)
    assert main(["images", "--output", str(tmp_path), "--jobs", "2"]) == 1
    assert len(calls) == 4 and calls[0][calls[0].index("--jobs") + 1] == "2"
    assert (tmp_path / "images.md").read_text() == "table 1\n\ntable 2\n\ntable 3\n\ntable 4\n"
    with Image.open(tmp_path / "images.png") as picture:
        assert picture.width > 500
    assert str(tmp_path / "images.md") in capsys.readouterr().out
