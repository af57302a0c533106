"""The verbs that need a model: visualize, compare, benchmark, on a few generated images."""

import fcntl
import gc
import json
import signal
import subprocess
import sys
import time
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ms_detr.benchmarks import groups
from ms_detr.benchmarks.step import _first_batches, compare_steps
from ms_detr.cli import main
from ms_detr.cli.compare import Run, table
from ms_detr.config import load
from ms_detr.meta_arch import MSDETR
from ms_detr.ops import status
from ms_detr.visualization.losses import draw_losses, read_losses
from tests.ops.inputs import needs_compiled

PANEL = 384 + 24  # pixels of an image and its title

CONFIG = "demo/ms_detr.py"
BASELINE = "demo/deformable_detr.py"
# A background job of a shell without job control ignores SIGINT, and so would its children.
MAIN_WITH_SIGINT = """
import signal, sys
from ms_detr.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def overrides(demo_dataset):
    """A demo config on a few images, a model that steps in milliseconds."""
    data = [
        f"dataloader.{loader}.dataset.{key}={demo_dataset / path}"
        for loader, split in (("train", "train"), ("test", "val"))
        for key, path in (("images", split), ("annotations", f"annotations/{split}.json"))
    ]
    return [
        *data,
        "dataloader.train.dataset.name=tiny_train",
        "dataloader.test.dataset.name=tiny_val",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "model.encoder.num_layers=1",
        "model.decoder.num_layers=1",
        "model.num_queries=20",
        "train.device=cpu",
        "train.max_iter=2",
    ]


@pytest.fixture(scope="module")
def compared(overrides, tmp_path_factory):
    """Two configs trained for two iterations; the folder and what was printed."""
    folder = tmp_path_factory.mktemp("compare")
    words = ["compare", "--output", str(folder), "--seeds", "3", "--jobs", "2"]
    for name, config in (("baseline", BASELINE), ("mixed", CONFIG)):
        words += ["--run", name, config, *overrides]
    assert main(words) == 0
    return folder, words


def weights_of(folder, name):
    return str(folder / name / "seed3" / "model_final.pth")


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
            lines = [json.dumps({"iteration": 1}), *(json.dumps({"time": t}) for t in times)]
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
    rows = [line.split("|") for line in (tmp_path / "compare.md").read_text().splitlines()]
    assert [row[1].strip() for row in rows] == ["run", rows[1][1], "bad", "good"]
    assert rows[2][2].strip() == "none"
    assert float(rows[3][2]) >= 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_compare_ends_its_trainings_with_itself(overrides, tmp_path, number, status):
    """Told alone, not with all processes of a terminal."""
    words = ["compare", "--output", str(tmp_path), "--seeds", "0", "1", "--run", "long", CONFIG]
    words += [*overrides, "train.max_iter=1000000"]
    command = [sys.executable, "-c", MAIN_WITH_SIGINT, *words]
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


def test_visualize_draws_pairs_and_a_sheet(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    words = [
        "visualize",
        "predictions",
        "--config-file",
        CONFIG,
        "--output",
        str(tmp_path),
        "--count",
        "3",
    ]
    weights = weights_of(folder, "mixed")
    assert main([*words, "--weights", weights, "--threshold", "0", *overrides]) == 0
    assert "3 images drawn" in capsys.readouterr().out
    single = [path for path in tmp_path.glob("*.png") if path.name != "predictions.png"]
    assert len(single) == 3
    with Image.open(single[0]) as pair, Image.open(tmp_path / "predictions.png") as sheet:
        left, right = pair.crop((0, 24, 384, PANEL)), pair.crop((392, 24, 776, PANEL))
        assert pair.size == (776, PANEL)
        assert left.tobytes() != right.tobytes()
        assert sheet.width > 2 * pair.width


def test_visualize_annotated_masks(compared, overrides, tmp_path):
    folder, _ = compared
    words = ["visualize", "predictions", "--config-file", CONFIG, "--count", "2"]
    words += ["--weights", weights_of(folder, "mixed"), *overrides, "--output"]
    pictures = {}
    for masks in ("false", "true"):
        output = tmp_path / masks
        assert main([*words[:-1], f"dataloader.masks={masks}", "--output", str(output)]) == 0
        files = sorted(path for path in output.glob("*.png") if path.name != "predictions.png")
        pictures[masks] = [np.asarray(Image.open(file)).astype(int) for file in files]
    # Boxes and names are the same.
    for plain, painted in zip(pictures["false"], pictures["true"], strict=True):
        assert plain.shape == painted.shape
        left, right = np.split((plain != painted).any(-1), 2, axis=1)
        assert left.mean() > right.mean() + 0.05


def test_visualize_refuses_weights_of_another_model(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    weights = weights_of(folder, "mixed")
    words = [
        "visualize",
        "predictions",
        "--config-file",
        CONFIG,
        "--output",
        str(tmp_path),
        "--weights",
        weights,
    ]
    assert main([*words, *overrides, "model.num_classes=7"]) == 2
    assert "num_classes" in capsys.readouterr().err


def test_benchmark_step_gives_ratios_to_the_first_and_memory(overrides, capsys):
    words = ["benchmark", "step", "--rounds", "2", "--steps", "1", "--json"]
    words += ["--config-file", CONFIG, BASELINE, "--opts", *overrides]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["config"], row["what"]) for row in rows] == [
        (config, what) for what in ("train", "predict") for config in (CONFIG, BASELINE)
    ]
    assert rows[0][f"ratio to {CONFIG}"] == rows[2][f"ratio to {CONFIG}"] == 1
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[0]["peak MB"] > 0


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
        main([*verb, name, *values])
    least = 0 if name == "--seeds" else 1
    problem = f"argument {name}: must be at least {least}, got {values[-1]}"
    assert problem in capsys.readouterr().err


class Counted(MSDETR):
    """Knows how many of its kind are there when another is made."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    counts: ClassVar[list] = []

    def __init__(self, **options):
        gc.collect()
        self.counts.append(len(self.alive))
        super().__init__(**options)
        self.alive.add(self)


def test_benchmark_step_holds_one_model_at_a_time(overrides):
    Counted.counts.clear()
    target = f"model._target_={__name__}.Counted"
    rows = compare_steps([CONFIG] * 2, [*overrides, target], rounds=1, steps=1)
    assert len(rows) == 4
    assert Counted.counts == [0] * 4  # two rounds, the first to warm up


def test_benchmark_step_reads_the_same_data_once(overrides):
    other = [*overrides, "train.seed=7"]
    cfgs = [load(c, o) for c, o in ((CONFIG, overrides), (BASELINE, overrides), (CONFIG, other))]
    first, same, seeded = _first_batches(cfgs)
    assert len(first["train"]) == len(first["predict"]) + 2 == 4  # of 12 images in eights two
    assert all(same[what] is first[what] for what in ("train", "predict"))
    assert seeded["predict"] is first["predict"]
    names = [[x["file_name"] for batch in made["train"] for x in batch] for made in (first, seeded)]
    assert names[0] != names[1]


@pytest.mark.parametrize(("view", "panels", "rows"), [("assignments", 1, 2), ("sampling", 1, 1)])
def test_visualize_the_insides(compared, overrides, tmp_path, capsys, view, panels, rows):
    """A column a decoder layer (one here); for assignments a row for o2o and one for o2m."""
    folder, _ = compared
    words = ["visualize", view, "--config-file", CONFIG, "--weights", weights_of(folder, "mixed")]
    assert main([*words, "--output", str(tmp_path), "--count", "2", *overrides]) == 0
    assert "2 images drawn" in capsys.readouterr().out
    files = sorted(tmp_path.glob(f"*_{view}.png"))
    assert len(files) == 2
    with Image.open(files[0]) as picture:
        assert picture.size == (384 * panels + 8 * (panels - 1), PANEL * rows + 8 * (rows - 1))


def test_visualize_a_query_that_is_not_there(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    words = ["visualize", "sampling", "--config-file", CONFIG, "--query", "20", "--output"]
    words += [str(tmp_path), "--weights", weights_of(folder, "mixed"), *overrides]
    assert main(words) == 2
    assert "there are queries 0 to 19, not 20" in capsys.readouterr().err


def test_visualize_candidates_side_by_side(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    words = ["visualize", "candidates", "--output", str(tmp_path), "--count", "2"]
    for name, config in (("baseline", BASELINE), ("mixed", CONFIG)):
        words += ["--run", name, config, weights_of(folder, name)]
    assert main([*words, *overrides]) == 0
    assert "2 images drawn" in capsys.readouterr().out
    files = sorted(tmp_path.glob("*_candidates.png"))
    with Image.open(files[0]) as picture:
        assert picture.size == (3 * 384 + 2 * 8, PANEL)
        truth, *models = (picture.crop((x, 24, x + 384, PANEL)).tobytes() for x in (0, 392, 784))
        assert len({truth, *models}) == 3


def test_visualize_losses_of_runs(compared, tmp_path, capsys):
    folder, _ = compared
    words = ["visualize", "losses", "--output", str(tmp_path / "losses.png")]
    for name in ("baseline", "mixed"):
        words += ["--run", name, str(folder / name / "seed3")]
    assert main(words) == 0
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.width > 1000
    assert main([*words, "--run", "none", str(tmp_path)]) == 2
    assert "metrics.json is missing: give the train.output_dir of a run" in capsys.readouterr().err


def test_a_loss_that_was_logged_once_is_a_point(tmp_path):
    term = {"weight": 1.0, "losses": {"class": {"weight": 1.0}, "bbox": {"weight": 1.0}}}
    config = {"model": {"criterion": {"terms": {"o2o": term}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = {"iteration": 9, "o2o/loss_class/0": 4.0, "o2o/loss_bbox/0": 10.0}
    (tmp_path / "metrics.json").write_text(json.dumps(line))
    picture = Image.open(draw_losses({"run": tmp_path}, tmp_path / "losses.png")).convert("RGB")
    # In the middle of both charts, where one point lies.
    for left in (0, picture.width // 2):
        middle = picture.crop((left + 150, 100, left + picture.width // 2 - 150, 300))
        pixels = np.asarray(middle).astype(int)
        assert np.ptp(pixels, axis=2).max() > 99  # coloured, as the grid isn't


def test_visualize_wants_a_name_of_its_own_for_every_run(tmp_path, capsys):
    words = ["visualize", "losses", "--output", str(tmp_path / "losses.png")]
    assert main([*words, "--run", "a", "x", "--run", "a", "y"]) == 2
    assert "--run: every run needs a name of its own" in capsys.readouterr().err


def test_losses_are_read_without_their_weights(tmp_path):
    """Summed over layers; runs differ in weights, which is not what the curves are to show."""
    loss = {
        "class": {"weight": 2.0},
        "bbox": {"weight": 5.0},
        "giou": {"weight": 0.5},
        "_target_": "x",
    }
    term = {"weight": 2.0, "losses": loss}
    config = {"model": {"criterion": {"terms": {"o2o": term}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = {"iteration": 9, "o2o/loss_class/0": 4.0, "o2o/loss_class/1": 8.0, "o2o/loss": 99.0}
    line |= {"o2o/loss_bbox/0": 10.0, "o2o/loss_giou/1": 3.0, "o2m/loss_class/0": 50.0}
    half = json.dumps(line)[:20]  # of a run that is writing it
    (tmp_path / "metrics.json").write_text(f'{json.dumps(line)}\n{{"AP": 3}}\n{half}')
    assert read_losses(tmp_path) == {"classification": [(9, 3.0)], "box": [(9, 4.0)]}
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 1}))
    with pytest.raises(ValueError, match="no losses of the term 'o2o'"):
        read_losses(tmp_path)


@needs_compiled
def test_benchmark_op_gives_ratios_to_pure_torch(capsys):
    words = ["benchmark", "op", "--rounds", "1", "--case", "decoder 300", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["kernel"] == status().instruction_set
    assert all(result["machine"][key] > 0 for key in ("GFLOP/s", "memory GB/s", "cache GB/s"))
    assert len(result["rows"]) == 8
    assert all(row["ms"] > 0 and row["ratio"] > 0 and row["MB"] >= 0 for row in result["rows"])
    assert main([*words, "--entry", "operator"]) == 0
    assert "| decoder 300 | operator | forward" in " ".join(capsys.readouterr().out.split())


def test_benchmark_masks_tells_time_and_memory(capsys):
    words = ["benchmark", "masks", "--queries", "9", "--objects", "2", "--size", "64"]
    assert main([*words, "--threads", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["masks"] for row in rows] == [54, 12, 54, 72]
    assert all(row["seconds"] > 0 for row in rows)
    assert main([*words, "--threads", "1"]) == 0
    assert "| costs of matching | 54 |" in " ".join(capsys.readouterr().out.split())


def test_benchmark_criterion_gives_the_losses_of_the_loop(capsys):
    words = ["benchmark", "criterion", "--batch", "2", "--queries", "60", "--objects", "1", "9"]
    assert main([*words, "--rounds", "1", "--threads", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["rule"], row["objects"]) for row in rows] == [
        ("released", 1),
        ("released", 9),
        ("paper", 1),
        ("paper", 9),
    ]
    assert all(row["largest difference"] < 1e-5 and row["ratio"] > 0 for row in rows)
    assert main([*words, "--rounds", "1", "--threads", "1"]) == 0
    assert "| released | 2 | 60 | 1 |" in " ".join(capsys.readouterr().out.split())


def test_benchmark_groups_gives_the_output_of_the_dense_mask(capsys, monkeypatch):
    monkeypatch.setattr(groups, "SCHEMES", {"DN": (8, [(3, True)] * 2)})
    words = ["benchmark", "groups", "--batch", "1", "--rounds", "1", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["scheme"], row["queries"]) == ("DN", 14)
    assert row["largest difference"] < 1e-5 and row["ratio"] > 0
    assert main(words) == 0
    assert "| DN | 14 |" in " ".join(capsys.readouterr().out.split())


def test_benchmark_op_names_what_it_does_not_know(capsys):
    assert main(["benchmark", "op", "--case", "encodr"]) == 2
    assert "no ['encodr']; choose from ['encoder'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_benchmark_op_without_a_gpu_says_why(capsys):
    assert main(["benchmark", "op", "--device", "cuda"]) == 2
    reason = "PyTorch sees no GPU here"
    if "cuda" in status().reasons:
        reason = f"no compiled operator for cuda: {status().reasons['cuda']}"
    assert reason in capsys.readouterr().err


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


def test_demo_wants_a_config_of_its_dataset(capsys):
    assert main(["demo", "--config-file", "ms_detr/ms_detr_r50_300q_12ep.py"]) == 2
    assert "isn't a config of the demo dataset" in capsys.readouterr().err
