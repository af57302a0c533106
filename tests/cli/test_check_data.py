"""`ms-detr check-data`: exit codes, JSON, pages and copies; hostile data; Ctrl-C."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_detr.cli import main
from ms_detr.cli._reading import add_voc_arguments
from ms_detr.data.check import image_files
from ms_detr.data.formats.dataset import VOC_OPTIONS
from tests.conftest import on_linux
from tests.data.check_support import FAULTS, Clean
from tests.data.formats.support import SIZE, voc_object, write_image, write_xml
from tests.own_data import forms

FAULT = {fault.name: fault for fault in FAULTS}


@pytest.fixture
def data(tmp_path) -> Clean:
    return Clean(tmp_path / "meine Däten")


def run(capsys, *words) -> tuple[int, str, str]:
    status = main(["check-data", *map(str, words)])
    return status, *capsys.readouterr()


def test_a_clean_dataset_is_0(data, capsys):
    status, out, _ = run(capsys, data.write())
    assert status == 0 and "nothing is wrong" in out
    assert out.splitlines()[0] == f"{data.root}: coco, 2 classes"
    status, out, _ = run(capsys, data.root, "--json")
    assert status == 0 and json.loads(out)["findings"] == []


@pytest.mark.parametrize("content", ["[]", '{"images": 3}', '{"info": {}}'])
def test_a_json_file_that_is_passed_over_is_found(data, capsys, content):
    """Else a dataset whose annotations of train are lost is said to be in order."""
    data.write()
    (data.root / "annotations" / "train.json").write_text(content)
    status, out, _ = run(capsys, data.root)
    assert status == 1 and "JSON files without images and annotations: passed over" in out
    assert "annotations/train.json" in out


def test_vocs_boxes_are_read_as_is_asked_for(tmp_path, capsys):
    """A box to the last pixel of the devkit's counting lies a pixel outside counted from 0."""
    width, height = SIZE
    for i, (first, extra) in enumerate((((5, 5), ""), ((9, 9), "<difficult>1</difficult>"))):
        write_image(tmp_path / "data" / f"{i}.jpg", i)
        found = voc_object("cat", (*first, width, height), extra)
        write_xml(tmp_path / "data" / f"{i}.xml", found, filename=f"{i}.jpg")
    for words, cut, crowds in (
        ((), 0, 1),
        (("--voc-boxes", "zero-based"), 2, 1),
        (("--difficult", "keep"), 0, 0),
        (("--difficult", "drop"), 0, 0),
    ):
        fixed = tmp_path / "".join(("fixed", *words))
        _, out, _ = run(capsys, tmp_path / "data", *words, "--json", "--fix", fixed)
        content = json.loads(out)
        found = sum(x["count"] for x in content["findings"] if x["kind"] == "doubtful-labels")
        (split,) = content["splits"].values()
        assert (found, split["crowds"]) == (cut, crowds)
        assert split["objects"] == 2 - crowds - ("drop" in words)
        assert content["fixed"]["objects"] == 2 - ("drop" in words)
    yolo = tmp_path / "yolo"
    forms.yolo(yolo)
    status, _, err = run(capsys, yolo, "--voc-boxes", "edges")
    assert status == 2 and "voc_boxes is of VOC's form, and the data are of the form yolo" in err


def test_the_command_line_knows_all_options():
    parser = argparse.ArgumentParser()
    add_voc_arguments(parser.add_argument)
    choices = {action.dest: action.choices for action in parser._actions if action.choices}
    assert choices == VOC_OPTIONS


def test_findings_are_1_and_json_has_all_of_them(data, capsys, tmp_path):
    for name in ("missing", "no width", "outside"):
        FAULT[name].plant(data)
    for _ in range(5):
        data.add_object(image_id=4, bbox=[3, 3, 0, 0], segmentation=None)
    status, out, _ = run(capsys, data.write(), "--report", tmp_path / "page.html")
    assert status == 1 and (tmp_path / "page.html").stat().st_size > 50_000
    assert out.index("missing-image") < out.index("empty-box") < out.index("outside-box")
    assert "\n  and 3 more\n" in out and f"page: {tmp_path / 'page.html'}" in out
    status, out, _ = run(capsys, data.root, "--json", "--fix", tmp_path / "mended")
    content = json.loads(out)
    counts = {group["kind"]: group["count"] for group in content["findings"]}
    assert status == 1
    assert counts == {"missing-image": 1, "empty-box": 6, "outside-box": 1, "no-segmentation": 5}
    empty = content["findings"][1]
    assert empty["error"] and len(empty["found"]) == 6
    assert empty["found"][1].items() >= {"split": "train", "file": "4.png", "image_id": 4}.items()
    assert content["splits"]["train"]["objects"] == 20
    assert content["fixed"]["left"] == {} and content["fixed"]["images"] == 14
    assert {entry["count"] for entry in content["fixed"]["mended"]} == {1, 7}
    status, out, _ = run(capsys, tmp_path / "mended")
    assert status == 0


def test_a_config_and_headers_alone(data, capsys):
    FAULT["cut"].plant(data)
    FAULT["copy"].plant(data)
    config = ["--config", "demo/ms_detr.py", "--opts", "model.num_queries=1"]
    status, out, _ = run(capsys, data.write(), "--json", "--headers-only", *config)
    counts = {group["kind"]: group["count"] for group in json.loads(out)["findings"]}
    assert status == 1 and counts == {"truncated-image": 1, "too-many-objects": 14}
    status, out, _ = run(capsys, data.root, "--json", "--max-pixels", 2000)
    counts = {group["kind"]: group["count"] for group in json.loads(out)["findings"]}
    assert counts == {"huge-image": 15, "truncated-image": 1}  # 60 x 40, and one of 30 x 20


UNREADABLE = {
    "no JSON": ("{", "is not a JSON file"),
    "a list": ("[1]", "is not in COCO's format"),
    "a number": ("7", "is not in COCO's format"),
    "deep": ("[" * 200_000, "nested too deeply"),
    "no text": (b"\xff\xfe\xff", "is not a JSON file"),
    "empty": ("", "is not a JSON file"),
}


@pytest.mark.parametrize("content, message", UNREADABLE.values(), ids=UNREADABLE)
def test_what_can_not_be_read_is_2(tmp_path, capsys, content, message):
    file = tmp_path / "a.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = run(capsys, file)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_a_folder_of_two_forms(tmp_path, capsys):
    folder = tmp_path / "data"
    for form in ("voc", "yolo"):
        forms.WRITERS[form](folder)
    status, _, err = run(capsys, folder)
    assert status == 2 and "may be of the forms voc, yolo: name the one that is meant" in err
    for form in ("voc", "yolo"):
        status, out, _ = run(capsys, folder, "--format", form)
        assert status in (0, 1) and out.startswith(f"{folder}: {form}, 2 classes\n")
    assert run(capsys, folder, "--format", "bmp")[::2] == (
        2, "error: 'bmp' is no form of dataset; known are coco, voc, yolo, labelme, masks\n"
    )  # fmt: skip
    status, _, err = run(capsys, folder / "data.yaml", "--format", "yolo")
    assert status == 2 and "is a file: give the folder in which the data lie" in err


def test_places_that_can_not_be_taken_are_2(data, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    FAULT["orphan"].plant(data)
    data.write()
    file = data.root / "annotations" / "train.json"
    before = file.read_bytes()
    for words, message in (
        ((tmp_path / "nowhere",), "there is no file or folder"),
        ((tmp_path / "empty",), "is of no form that is known"),
        ((data.root, "--fix", tmp_path / "taken"), "is there already"),
        ((data.root, "--fix", tmp_path / "taken" / "file" / "x"), "file/x: "),
        (
            (data.root, "--report", tmp_path / "taken" / "file" / "x.html"),
            "taken/file: File exists",
        ),
        ((data.root, "--report", file), "is there already and no page"),
        ((data.root, "--report", tmp_path / "taken"), "is a folder: give a file"),
        ((data.root, "--images", data.root), "only of a JSON file"),
        ((data.root, "--opts", "model.num_queries=3"), "--config"),
        ((data.root, "--link"), "--fix"),
        ((data.root, "--config", "gone.py"), "config gone.py not found"),
    ):
        status, _, err = run(capsys, *words)
        assert status == 2 and message in err, words
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", data.root.name, "taken"]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["file"]


def test_most_of_a_dataset_that_is_wrong_is_not_mended(data, tmp_path, capsys):
    for image in data.content["train"]["images"]:
        image["file_name"] = f"gone {image['file_name']}"
    status, out, err = run(capsys, data.write(), "--fix", tmp_path / "mended")
    assert status == 2 and "missing-image" in out and "can't be used" in err
    assert not (tmp_path / "mended").exists() and not [*tmp_path.glob("*.partial")]


def test_ctrl_c_leaves_nothing(data, tmp_path, capsys, monkeypatch):
    told = threading.Event()

    def slow(file, **options):
        if not told.is_set():
            told.set()
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        return image_files.Look()

    monkeypatch.setattr(image_files, "_look", slow)
    data.write()
    start = time.monotonic()
    status, out, err = run(
        capsys, data.root, "--fix", tmp_path / "mended", "--report", tmp_path / "page.html"
    )
    assert (status, out, err.strip()) == (130, "", "interrupted")
    assert [path.name for path in tmp_path.iterdir()] == [data.root.name]
    assert time.monotonic() - start < 20


def test_without_a_terminal(data):
    """Nothing but the result: no bar, no colours; a stream that takes no letter like ä."""
    FAULT["leaving"].plant(data)
    environment = os.environ | {"PYTHONIOENCODING": "ascii:backslashreplace"}
    words = [sys.executable, "-m", "ms_detr", "check-data", str(data.write())]
    done = subprocess.run(words, capture_output=True, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and b"leaving-box" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr and b"img/s" not in done.stderr


# Of this process alone: resource's peak is its parent's, too.
PEAK = """
import re, sys
from ms_detr.cli import main
status = main(sys.argv[1:])
print(status, re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("verb", ["check-data", "import", "train"])
def test_an_image_of_400_million_pixels_is_not_held(data, tmp_path, verb):
    """Of which the pixels alone are 1.2 GB: its header is read, and a training refuses it."""

    def peak(root: Path) -> tuple[int, int]:
        out = tmp_path / f"out {root.name}"
        words = {
            "check-data": ["check-data", root, "--report", f"{out}.html"],
            "import": ["import", "coco", root, out, "--split", "0.5"],
            "train": [
                "train",
                "--data",
                root,
                "train.max_iter=1",
                "train.device=cpu",
                f"train.output_dir={out}",
                "train.report=false",
            ],
        }[verb]
        command = [sys.executable, "-c", PEAK, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        status, size = done.stderr.splitlines()[-1].split()
        return int(status), int(size) >> 10

    _, small = peak(data.write())
    rows = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1, 20_000, 3), np.uint8))
    large = Clean(tmp_path / "large")
    path = large.root / "train" / "large.png"
    rows.resize((20_000, 20_000)).save(path, compress_level=1)
    large.add_image(file_name=path.name, width=20_000, height=20_000)
    status, size = peak(large.write())
    assert status == {"check-data": 1, "import": 0, "train": 2}[verb]
    assert size < small + 250
