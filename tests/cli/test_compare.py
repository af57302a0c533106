"""`ms-detr compare`, on a few generated images."""

import fcntl
import json
import math
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from ms_detr.cli import main
from ms_detr.cli._tables import course_table
from ms_detr.cli.compare import Run, table
from ms_detr.engine import compare_models, compare_trainings
from ms_detr.visualization import draw_courses

CONFIG = "demo/ms_detr.py"


def test_compare_trains_every_run_and_tabulates(compared, capsys):
    folder, words = compared
    for name in ("baseline", "mixed"):
        assert (folder / name / "seed3" / "model_final.pth").is_file()
    # What is finished is not trained again, and the table has what the runs wrote.
    result = folder / "mixed" / "seed3" / "evaluation" / "results.json"
    changed = json.loads(result.read_text())
    changed["bbox"]["AP"], changed["bbox_nms"]["AP"] = 12.34, 56.78
    result.write_text(json.dumps(changed))
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "2 runs, 0 to be trained" in printed
    row = next(line for line in printed.splitlines() if line.startswith("| mixed"))
    assert [cell.strip() for cell in row.split("|")[2:6]] == ["12.3", "12.3", "56.8", "56.8"]
    assert row in (folder / "compare.md").read_text()
    with Image.open(folder / "compare.png") as picture:
        assert picture.width > 500


def test_compare_tells_what_is_chance(compared, demo_dataset, tmp_path, capsys, monkeypatch):
    """Every row but the first against it, as `compare_models` has it of single trainings.

    The second one is given three in four of the objects to have found.
    """
    folder, words = compared
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    words = [str(copied) if word == str(folder) else word for word in words]
    truth = json.loads((demo_dataset / "annotations" / "val.json").read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [{key: x[key] for key in keys} | {"score": 0.9} for x in truth["annotations"]]
    place = copied / "mixed" / "seed3" / "evaluation" / "coco_instances_results.json"
    place.write_text(json.dumps([x for i, x in enumerate(found) if i % 4]))
    monkeypatch.setattr("ms_detr.cli._progress.PERIOD", 0.0)
    assert main(words) == 0
    printed, told = capsys.readouterr()
    assert "3/12 classes of trainings, eta " in told  # two trainings, six classes
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    (row,) = (row for row in rows if row[:2] == ["mixed", "AP"])
    folders = {name: [copied / name / "seed3"] for name in ("baseline", "mixed")}
    single = compare_models([each[0] for each in folders.values()])
    (each,) = (metrics["AP"] for metrics in single.differences["bbox"].values())
    numbers = (-each.difference, -each.high, -each.low)
    assert 20 < numbers[1] < numbers[0] < numbers[2] < 100
    difference, low, high = (f"{number:+.1f}" for number in numbers)
    assert row == ["mixed", "AP", difference, f"{low} to {high}", f"{1 - each.better:.3f}"]
    assert "| above baseline " in (copied / "compare.md").read_text()
    # A baseline of two trainings, one of which is the other name's: half of the difference is left.
    folders["baseline"].append(folders["mixed"][0])
    (two,) = compare_trainings(folders)["bbox"].values()
    assert two.difference == pytest.approx(numbers[0] / 2)
    # What can't be told takes no table away, and nothing is told where nobody asks.
    place.unlink()
    for more, told in (([], "no differences: "), (["--draws", "0"], None)):
        assert main([*words, *more]) == 0
        text = (copied / "compare.md").read_text()
        assert "| mixed" in text and (told is None) == ("differences" not in text)


def test_compare_shows_time_and_where_a_run_has_it_mask_ap(tmp_path):
    made = {
        "boxes": {"bbox": {"AP": 10.0}},
        "masks": {"bbox": {"AP": 20.0}, "segm": {"AP": 15.06}},
    }
    runs = []
    for name, results in made.items():
        for seed in (0, 1):
            run = Run(name, CONFIG, (), seed, tmp_path / name / str(seed))
            folder = run.folder / "evaluation"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(results))
            times = [0.25 + seed, 0.25 + seed, 9.0] if name == "masks" else []
            lines = [{"iteration": 0}, *({"iteration": i, "time": t} for i, t in enumerate(times))]
            lines = map(json.dumps, lines)
            (run.folder / "metrics.json").write_text("\n".join(lines))
            (run.folder / "finished.json").write_text(json.dumps(run.description()))
            runs.append(run)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(runs).splitlines()]
    titles = ["run", "AP", "by seed", "AP after NMS", "by seed"]
    assert rows[0] == [*titles, "mask AP", "by seed", "s an iteration"]
    assert rows[2] == ["boxes", "10.0", "10.0 / 10.0", "none", "", "none", "", "none"]
    # The mean over seeds of medians.
    assert rows[3] == ["masks", "20.0", "20.0 / 20.0", "none", "", "15.1", "15.1 / 15.1", "0.750"]
    assert table(runs[:2]).splitlines()[0].count("|") == len(titles) + 2


def test_compare_has_the_course_of_ap(tmp_path):
    """Means over seeds at each evaluation; a failed run has none."""
    logged = {
        ("sam", 0): {9: 1.0, 20: 3.0},  # the last one as of the iteration that would come next
        ("sam", 1): {9: 2.0, 20: 6.0},
        ("ms_detr_sam", 0): {20: 8.0},
    }
    for (name, seed), course in logged.items():
        run = Run(name, CONFIG, (), seed, tmp_path / name / f"seed{seed}")
        run.folder.mkdir(parents=True)
        lines = [{"iteration": at, "bbox/AP": ap} for at, ap in course.items()]
        lines += [{"iteration": 14, "time": 0.1}, {"iteration": 14, "bbox/AP": math.nan}]
        lines.append({"iteration": 19, "total_loss": 5.0})
        (run.folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
        (run.folder / "finished.json").write_text(json.dumps(run.description()))
    runs = [
        Run(name, CONFIG, (), seed, tmp_path / name / f"seed{seed}")
        for seed in (0, 1)
        for name in ("sam", "ms_detr_sam", "smca")
    ]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in course_table(runs).splitlines()
    ]
    assert rows[0] == ["iteration", "10", "20"]
    assert rows[2:] == [["sam", "1.5", "4.5"], ["ms_detr_sam", "", "8.0"], ["smca", "", ""]]
    draw_courses([(run.name, run.course("bbox")) for run in runs], tmp_path / "courses.png")
    with Image.open(tmp_path / "courses.png") as picture:
        assert picture.width > 500


@pytest.mark.slow
def test_compare_names_the_run_that_failed_and_tabulates_the_others(overrides, tmp_path, capsys):
    words = ["compare", "--output", str(tmp_path), "--seeds", "0"]
    words += ["--run", "bad", CONFIG, *overrides, "model.num_queries=0"]
    words += ["--run", "good", CONFIG, *overrides]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert str(tmp_path / "bad" / "seed0") in printed.err
    assert "model.num_queries must be" in (tmp_path / "bad" / "seed0" / "output.txt").read_text()
    assert "1/2 bad, seed 0: exit status 2, eta 0:" in printed.out
    assert "2/2 good, seed 0: finished\n" in printed.out
    text = (tmp_path / "compare.md").read_text()
    assert "no differences: the first name, bad, has no run that is finished" in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows] == ["run", rows[1][1], "bad", "good"]
    assert rows[2][2].strip() == "none"
    assert float(rows[3][2]) >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
def test_compare_ends_its_trainings_with_itself(overrides, tmp_path, number, status):
    """Told alone, not with all processes of a terminal."""
    words = ["compare", "--output", str(tmp_path), "--seeds", "0", "1", "--run", "long", CONFIG]
    words += [*overrides, "train.max_iter=1000000"]
    command = [sys.executable, "-m", "ms_detr", *words]
    started = tmp_path / "long" / "seed0" / "output.txt"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as compare:
        deadline = time.monotonic() + 120
        while not (started.is_file() and "eta" in started.read_text()):
            assert compare.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        compare.send_signal(number)
        printed, _ = compare.communicate(timeout=60)
    assert compare.returncode == status
    assert "trainings ended early: 1; call again to go on" in printed
    with (started.parent / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody trains there
    assert not (tmp_path / "long" / "seed1" / "output.txt").exists()


def test_compare_refuses_another_run_under_an_old_name(compared, capsys):
    folder, words = compared
    assert main([*words, "train.max_iter=3"]) == 2
    assert str(folder / "mixed" / "seed3") in capsys.readouterr().err


def test_compare_wants_a_name_of_its_own_for_every_run(tmp_path, capsys):
    words = ["compare", "--output", str(tmp_path), "--run", "a", CONFIG, "--run", "a", CONFIG]
    assert main(words) == 2
    assert "name of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--run", "b", "demo/ms_dter.py"], "the nearest are configs/demo/ms_detr.py"),
        (["--run", "b", CONFIG, "train.epoch=3"], "did you mean train.epochs"),
        (["--run", "", CONFIG], "--run '': the name is that of a folder in --output"),
        (["--run", "../b", CONFIG], "--run '../b': the name"),
        (["--run", "..", CONFIG], "--run '..': the name"),
        (["--seeds", "0", "1", "0"], "--seeds: name every seed once, got [0, 1, 0]"),
    ],
)
def test_mistakes_show_before_anything_is_trained(tmp_path, capsys, words, problem):
    output = tmp_path / "out"
    assert main(["compare", "--run", "a", CONFIG, *words, "--output", str(output)]) == 2
    assert problem in capsys.readouterr().err
    assert not output.exists()
