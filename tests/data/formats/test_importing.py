"""Whole or not at all; splits; links; what the command says; training on what it wrote."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ms_detr.cli import main
from ms_detr.data.formats import (
    FORMATS,
    Dataset,
    Options,
    Picture,
    Problems,
    import_dataset,
    importing,
    recognise,
)
from ms_detr.data.images import load_image
from ms_detr.errors import ConfigError, DataError, MissingFileError

from .support import read_split, voc_object, whats, write_image, write_text, write_xml


def write_voc(folder, count=10, copies=(), rename=str):
    """Images without splits; those in `copies` have the pixels of image 0."""
    for number in range(count):
        name = rename(f"a{number}")
        write_image(folder / f"{name}.png", 0 if number in copies else number)
        write_xml(folder / f"{name}.xml", voc_object("cat", (number + 1, 5, 30, 40)))


def split_names(folder):
    return {split: {*read_split(folder, split)} for split in ("train", "val", "test")
            if (folder / "annotations" / f"{split}.json").is_file()}  # fmt: skip


def test_splits_are_made_by_content(tmp_path):
    """The same pixels come into the same split, whatever the files are called."""
    write_voc(tmp_path / "one")
    write_voc(tmp_path / "two", rename=lambda name: f"x{9 - int(name[1:])}")
    found = []
    for name in ("one", "two"):
        report = import_dataset("voc", tmp_path / name, tmp_path / f"{name}_out")
        assert report.images == {"train": 8, "val": 2} and report.made_splits
        found.append(split_names(tmp_path / f"{name}_out"))
    renamed = {split: {f"x{9 - int(name[1])}.png" for name in names}
               for split, names in found[0].items()}  # fmt: skip
    assert renamed == found[1]
    assert found[0]["val"] != {"a8.png", "a9.png"}


@pytest.mark.parametrize("shares", [(0.5,), (0.7, 0.2), (0.2,)])
def test_copies_stay_together(tmp_path, shares):
    copies = {0, 2, 5, 7}
    write_voc(tmp_path / "in", 20, copies)
    report = import_dataset("voc", tmp_path / "in", tmp_path / "out", split=shares)
    splits = split_names(tmp_path / "out")
    names = {f"a{number}.png" for number in copies}
    assert sum(names <= split for split in splits.values()) == 1
    assert sum(report.images.values()) == 20
    for share, split in zip(shares, ("train", "val"), strict=False):
        assert abs(report.images[split] - 20 * share) <= 2


def test_augmented_copies_stay_together(tmp_path):
    """Roboflow names them after their image."""
    for number in range(30):
        name = f"{number % 10}_jpg.rf.{number:032x}"
        write_image(tmp_path / "in" / f"{name}.png", number)
        write_xml(tmp_path / "in" / f"{name}.xml", voc_object("cat", (1, 5, 30, 40)))
    import_dataset("voc", tmp_path / "in", tmp_path / "out", split=[0.5])
    origins = [{name[0] for name in names} for names in split_names(tmp_path / "out").values()]
    assert len(origins) == 2 and not origins[0] & origins[1]


def test_all_may_stay_in_one_split(tmp_path):
    write_voc(tmp_path / "in", 3)
    assert import_dataset("voc", tmp_path / "in", tmp_path / "out", split=[1]).images == {
        "train": 3
    }


@pytest.mark.parametrize(
    "split", [(), (0.5, 0.2, 0.3), (0,), (1.1,), (-1,), (0.8, 0.4), (float("nan"),)]
)
def test_wrong_shares(tmp_path, split):
    write_voc(tmp_path / "in", 3)
    with pytest.raises(ConfigError, match="split is"):
        import_dataset("voc", tmp_path / "in", tmp_path / "out", split=split)


def test_too_few_images_for_a_split(tmp_path):
    write_voc(tmp_path / "in", 3, copies={1, 2})
    with pytest.raises(DataError, match=r"3 images in 1 groups of the same content are too few"):
        import_dataset("voc", tmp_path / "in", tmp_path / "out")


def test_images_that_cannot_be_decoded(tmp_path):
    write_voc(tmp_path / "in", 10)
    path = tmp_path / "in" / "a3.png"
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(2900)
    path.write_bytes(content)
    report = import_dataset("voc", tmp_path / "in", tmp_path / "out")
    assert whats(report.problems.as_json()) == {"images that can't be read: left out": 1}
    assert sum(report.images.values()) == 9


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
def test_nothing_half_written(tmp_path, monkeypatch, stop):
    write_voc(tmp_path / "in")
    real, calls = shutil.copyfile, []

    def copyfile(*args):
        calls.append(args)
        if len(calls) == 5:
            raise stop
        return real(*args)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(type(stop) if isinstance(stop, OSError) else stop):
        import_dataset("voc", tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


SLOW_COPY = """
import shutil, sys, time
from ms_detr.cli import main

def copyfile(source, target):
    open(target, "w").close()
    print("copying", flush=True)
    time.sleep(600)

shutil.copyfile = copyfile
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_from_outside(tmp_path, number, status):
    write_voc(tmp_path / "in", 3)
    words = ["import", "voc", str(tmp_path / "in"), str(tmp_path / "out"), "--split", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_COPY, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "copying\n"
            assert (tmp_path / "out.partial").is_dir()
            process.send_signal(number)
            assert process.wait(60) == status
        finally:
            process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_links_pipes_and_folders_in_the_place_of_files(tmp_path):
    """A link that leads back isn't followed for ever, and a pipe isn't read."""
    write_voc(tmp_path / "elsewhere", 5)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    os.mkfifo(folder / "pipe.xml")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.json")
    (folder / "data.yaml").mkdir()
    (folder / "x.json").mkdir()
    assert recognise(folder).name == "voc"
    report = import_dataset("auto", folder, tmp_path / "out", split=[1])
    assert report.images == {"train": 5}
    assert whats(report.problems.as_json()) == {
        "XML files that can't be read: passed over": 1,
        "images without an XML file that can be read: left out": 1,
    }


def test_targets_that_can_not_be_written(tmp_path, capsys):
    write_voc(tmp_path / "in", 5)
    write_text(tmp_path / "file", "")
    write_text(tmp_path / "full" / "mine", "")
    for target, message in {
        "file/out": "file/out: File exists",
        "file": "file is there already: give a new folder",
        "full": "full is there already: give a new folder",
        "in": "in is there already",
    }.items():
        assert main(["import", "voc", str(tmp_path / "in"), str(tmp_path / target)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(ConfigError, match=r"out\.partial is there already, of an import that goes"):
        import_dataset("voc", tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out.partial").is_dir()
    with pytest.raises(MissingFileError, match="there is no folder"):
        import_dataset("voc", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert import_dataset("voc", tmp_path / "in", tmp_path / "empty").folder == tmp_path / "empty"


@pytest.mark.parametrize("links", [True, False])
def test_links(tmp_path, monkeypatch, links):
    write_voc(tmp_path / "in", 5)
    if not links:  # as between two disks

        def link(*_):
            raise OSError(errno.EXDEV, "another device")

        monkeypatch.setattr(os, "link", link)
    import_dataset("voc", tmp_path / "in", tmp_path / "out", split=[1], link=True)
    written = tmp_path / "out" / "train" / "a1.png"
    assert written.samefile(tmp_path / "in" / "a1.png") and written.is_symlink() != links


def test_no_folder_of_any_form(tmp_path):
    write_text(tmp_path / "notes.txt", "nothing")
    with pytest.raises(DataError, match="is of no form that is known .coco: JSON files"):
        recognise(tmp_path)
    write_voc(tmp_path)
    assert recognise(tmp_path).name == "voc"
    write_text(tmp_path / "data.yaml", "train: .\nnames: [a]\n")
    with pytest.raises(DataError, match="may be of the forms voc, yolo: name the one"):
        recognise(tmp_path)
    with pytest.raises(ConfigError, match="'csv' is no form of dataset; known are coco"):
        import_dataset("csv", tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="masks are read, not written"):
        import_dataset("voc", tmp_path, tmp_path / "out", to="masks")


def test_classes_that_are_kept(tmp_path):
    for number, name in enumerate("abc"):
        write_image(tmp_path / "in" / f"{name}.png", number)
        write_xml(tmp_path / "in" / f"{name}.xml", voc_object(name, (1, 5, 30, 40)))
    report = import_dataset(
        "voc", tmp_path / "in", tmp_path / "out", split=[1], options=Options(classes=["c", "a"])
    )
    assert report.classes == {"c": 1, "a": 2} and report.objects == {"train": 2}
    assert [whats(report.problems.as_json())] == [
        {"objects of other classes than were asked for: left out": 1}
    ]
    with pytest.raises(ConfigError, match="there is no dog; the dataset has a, b, c"):
        import_dataset("voc", tmp_path / "in", tmp_path / "x", options=Options(classes=["dog"]))


def test_names_are_kept_apart(tmp_path):
    for split in ("train", "valid"):
        write_image(tmp_path / "in" / split / "a.png", len(split))
        write_xml(tmp_path / "in" / split / "a.xml", voc_object("cat", (1, 5, 30, 40)))
    report = import_dataset("voc", tmp_path / "in", tmp_path / "out", split=[1])
    assert [*read_split(tmp_path / "out", "train")] == ["a.png", "a-2.png"]
    assert whats(report.problems.as_json()) == {"names of images that are changed": 1}


def test_many_of_one_name():
    """Each is tried a few times, not as often as there are images before."""
    pictures = [Picture(Path(f"{i}/a.png"), "a.png", "train", 1, 1, []) for i in range(20_000)]
    pictures.insert(1, Picture(Path("b.png"), "a-3.png", "train", 1, 1, []))
    start = time.perf_counter()
    named = importing._named(Dataset({}, pictures), FORMATS["coco"], Problems())
    assert time.perf_counter() - start < 20
    names = [picture.name for picture in named.pictures]
    assert names[:5] == ["a.png", "a-3.png", "a-2.png", "a-4.png", "a-5.png"]
    assert len(set(names)) == len(names)


def test_names_that_are_no_text(tmp_path):
    write_voc(tmp_path / "in", 5)
    for suffix in (b"png", b"xml"):
        source = os.fsencode(tmp_path / "in" / f"a1.{suffix.decode()}")
        os.rename(source, os.fsencode(tmp_path / "in") + b"/k\xe4fer\n." + suffix)
    report = import_dataset("voc", tmp_path / "in", tmp_path / "out", split=[1])
    assert "k_fer_.png" in read_split(tmp_path / "out", "train")
    assert report.problems.lines() == [
        "1 names of images that are changed: k_fer .png is k_fer_.png"
    ]


def test_the_command(tmp_path, capsys):
    write_voc(tmp_path / "in dir")
    write_xml(tmp_path / "in dir" / "a3.xml", voc_object("cat", (7, 7, 7, 7)))
    words = ["import", "auto", str(tmp_path / "in dir")]
    assert main([*words, str(tmp_path / "out dir"), "--split", "0.6", "0.2"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0].endswith("out dir: from voc, 1 class")
    assert output[1:5] == [
        "  train: 6 images, 6 objects",
        "  val: 2 images, 2 objects",
        "  test: 2 images, 2 objects",
        "the splits were made here; --split chooses their shares",
    ]
    assert output[5] == "1 boxes of one pixel, as a click leaves them: kept: a3.xml: cat 7 7 7 7"
    assert output[6] == f"use it: ms-detr train --data '{tmp_path / 'out dir'}'"
    assert output[7].startswith("or: ms-detr train CONFIG model.num_classes=1 ")
    assert "annotations/val.json" in output[7]
    assert main([*words, str(tmp_path / "b"), "--json", "--to", "yolo", "--link"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "voc" and found["images"] == {"train": 8, "val": 2}
    assert found["problems"][0]["count"] == 1 and found["left_out"] == {}
    assert main([*words, str(tmp_path / "c"), "--strict"]) == 2
    assert "boxes of one pixel" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_trained_on(tmp_path):
    """Blanks and letters of any script in the folder's name, too."""
    folder = tmp_path / "中 in"
    for number in range(6):
        write_image(folder / "JPEGImages" / f"{number}.jpg", number)
        objects = [voc_object("RBC", (5, 5, 30, 30)), voc_object("WBC", (20, 1, 64, 48)), ""]
        write_xml(folder / "Annotations" / f"{number}.xml", "".join(objects[number % 3 :]))
    report = import_dataset("auto", folder, tmp_path / "中 out", split=[0.7])
    overrides = [
        f'dataloader.{loader}.dataset.{key}="{value}"'
        for loader, split in (("train", "train"), ("test", "val"))
        for key, value in (
            ("name", f"formats_{split}"),
            ("images", report.folder / split),
            ("annotations", report.folder / "annotations" / f"{split}.json"),
        )
    ]
    assert main([
        "train", "demo/ms_detr.py", *overrides, "model.num_classes=2", "train.max_iter=2",
        "model.encoder.num_layers=1", "model.decoder.num_layers=1", "model.num_queries=20",
        "dataloader.train.total_batch_size=2", "train.device=cpu", "train.report=false",
        "train.pictures=0", f"train.output_dir={tmp_path / 'run'}",
    ]) == 0  # fmt: skip
    assert (tmp_path / "run" / "model_final.pth").is_file()


def test_a_target_in_the_source(tmp_path):
    """What was written there would be read the next time."""
    write_voc(tmp_path / "in")
    before = sorted((tmp_path / "in").iterdir())
    with pytest.raises(ConfigError, match="DST .* lies in the data, .*, which stay as they are"):
        import_dataset("voc", tmp_path / "in", tmp_path / "in" / "out")
    assert main(["check-data", str(tmp_path / "in"), "--fix", str(tmp_path / "in" / "out")]) == 2
    assert sorted((tmp_path / "in").iterdir()) == before


def test_a_link_in_the_place_of_the_target(tmp_path):
    write_voc(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        (tmp_path / f"to_{name}").symlink_to(name)
        import_dataset("voc", tmp_path / "in", tmp_path / f"to_{name}")
        assert (tmp_path / f"to_{name}").is_symlink()
        assert {*split_names(tmp_path / name)} == {"train", "val"}


def test_a_class_without_a_name():
    with pytest.raises(ConfigError, match="a name is empty"):
        Options(classes=["cat", " "])


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    write_voc(tmp_path / "in")
    at_once, most, lock = 0, 0, threading.Lock()

    def load(path):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1
        return load_image(path)

    monkeypatch.setattr("ms_detr.data.formats.splits.load_image", load)
    import_dataset("voc", tmp_path / "in", tmp_path / "out")
    assert most > 1
    monkeypatch.setattr("ms_detr.data.images.LARGE", 64 * 48 - 1)
    most = 0
    import_dataset("voc", tmp_path / "in", tmp_path / "one")
    assert most == 1
