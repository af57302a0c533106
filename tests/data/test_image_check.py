"""The look at all image files of a dataset before it is used."""

import json
import logging
import multiprocessing
import os
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils import comm
from PIL import Image

from ms_detr.benchmarks.images import measure_images
from ms_detr.config import load
from ms_detr.data import DetrMapper, ImageError, coco_dataset
from ms_detr.data import image_headers as look
from ms_detr.data.image_check import BAD
from ms_detr.data.image_headers import KNOWN
from tests.data.test_images import STORED
from tests.processes import gloo


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](noise()))).save(path, exif=exif)


def pixels(path: Path, *shape: int, dtype=np.uint8) -> None:
    Image.fromarray(np.zeros(shape, dtype)).save(path)


def cut_short(path: Path) -> None:
    Image.fromarray(noise()).save(path)
    path.write_bytes(path.read_bytes()[:-40])


# Name -> how the file is made, and what is said of it.
FILES = {
    "missing.png": (lambda path: None, "there is no image file {}"),
    "text.jpg": (lambda path: path.write_text("hello"), "{} can't be read as an image"),
    "empty.jpg": (lambda path: path.touch(), "{} can't be read as an image"),
    "pipe.jpg": (os.mkfifo, "{} is a named pipe, not an image file"),
    "folder.jpg": (Path.mkdir, "{} is a folder, not an image file"),
    "deep.png": (lambda p: pixels(p, 20, 30, dtype=np.uint16), "{} has more than 8 bits"),
    "size.png": (lambda path: pixels(path, 21, 30, 3), "{} is 30 x 21 pixels, .* says 30 x 20: c"),
    "swapped.png": (lambda path: pixels(path, 30, 20, 3), "width and height are swapped there"),
    "cut.jpg": (cut_short, "{} can't be read as an image: OSError: .*truncated"),
    "cut.png": (cut_short, "{} can't be read as an image: OSError: .*truncated"),
}
GOOD = {
    **{f"{o}.{kind}": o for o in STORED for kind in ("jpg", "tiff", "png", "webp")},
}


def add(folder, name: str, make) -> None:
    make(folder.images / name)
    number = 100 + len(folder.content["images"])
    entry = {"id": number, "file_name": name, "height": 20, "width": 30}
    folder.content["images"].append(entry)


def test_all_bad_files_are_named(folder):
    for name, (make, _) in FILES.items():
        add(folder, name, make)
    for name, orientation in GOOD.items():
        add(folder, name, lambda path, orientation=orientation: turned(path, orientation))
    with pytest.raises(ImageError) as error:
        folder.load()
    message = str(error.value)
    total = 2 + len(FILES) + len(GOOD)
    assert message.startswith(f"{folder.json}: 10 of {total} image files can't be used: image 102:")
    assert message.count("image 10") == 3 and "\n" not in message
    listed = Path(f"{folder.json}{BAD}")
    assert message.endswith(f" and 7 more (all of them are listed in {listed})")
    lines = listed.read_text().splitlines()
    assert len(lines) == len(FILES)
    for line, (name, (_, problem)) in zip(lines, FILES.items(), strict=True):
        assert line.startswith("image 1")
        assert re.search(problem.format(re.escape(str(folder.images / name))), line), line
    # Once they are mended, the list is gone.
    del folder.content["images"][2 : 2 + len(FILES)]
    assert len(folder.load()) == 2 + len(GOOD)
    assert not listed.exists()


def test_it_can_be_switched_off(folder):
    add(folder, "text.jpg", lambda path: path.write_text("hello"))
    assert len(folder.load(check_images=False)) == 3
    assert not Path(f"{folder.json}{KNOWN}").exists()
    with pytest.raises(ImageError, match=r"1 of 3 image files can't .* image 102: .*text\.jpg"):
        folder.load()


def test_one_key_for_both_datasets():
    for value in (True, False):
        loader = load(
            "ms_detr/ms_detr_r50_300q_12ep.py", [f"dataloader.check_images={value}"]
        ).dataloader
        assert loader.train.dataset.check_images is loader.test.dataset.check_images is value
    assert load("demo/ms_detr.py").dataloader.test.dataset.check_images is True


def test_the_convention_of_the_annotation_file(folder):
    for name, size in (("6.jpg", (30, 20)), ("8.tiff", (30, 20)), ("5.png", (20, 30))):
        orientation = int(name[0])
        add(folder, name, lambda path, orientation=orientation: turned(path, orientation))
        folder.content["images"][-1] |= {"height": size[0], "width": size[1]}
    add(folder, "3.jpg", lambda path: turned(path, 3))
    with pytest.raises(ImageError) as error:
        folder.load()
    message = str(error.value)
    assert "2 of 6 image files can't be used" in message
    assert "its orientation tag, 6; the annotation file says 20 x 30, the size as stored" in message
    assert (
        " Of 3 images that are stored sideways, the annotation file gives the size as stored for "
        "2, and the upright image's for 1." in message
    )


def test_it_agrees_with_the_mapper(folder):
    """What is checked can be read, whatever the format and the orientation."""
    for name, orientation in GOOD.items():
        add(folder, name, lambda path, orientation=orientation: turned(path, orientation))
    for record in folder.load():
        assert DetrMapper([])(record)["image"].shape == (3, 20, 30)


# -------------------------------------------------------------------- the second look is quick


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files that are opened."""
    names: list[str] = []
    original = look.open_image

    def watch(path):
        names.append(os.path.basename(path))
        return original(path)

    monkeypatch.setattr(look, "open_image", watch)
    return names


def test_files_that_have_not_changed_are_not_opened_again(folder, opened):
    folder.load()
    assert sorted(opened) == ["a.png", "b.png"]
    folder.load()
    assert len(opened) == 2
    # The size in the JSON is compared all the same.
    folder.content["images"][0]["width"] = 31
    with pytest.raises(ImageError, match=r"b\.png is 30 x 20 pixels, .*says 31 x 20"):
        folder.load()
    assert len(opened) == 2
    folder.content["images"][0]["width"] = 30
    path = folder.images / "b.png"
    facts = path.stat()
    path.write_bytes(bytes(facts.st_size))
    with pytest.raises(ImageError, match=r"b\.png can't be read"):
        folder.load()
    with pytest.raises(ImageError, match=r"b\.png can't be read"):  # bad files every time
        folder.load()
    assert opened[2:] == ["b.png", "b.png"]
    Image.fromarray(noise()).save(path)
    folder.load()
    folder.load()
    assert opened[2:] == ["b.png"] * 3


def test_a_look_that_may_take_long_is_announced(folder, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "ms_detr")
    folder.load()
    assert caplog.messages == []
    Path(f"{folder.json}{KNOWN}").unlink()
    monkeypatch.setattr(look, "CHUNK", 2)
    folder.load()
    folder.load()
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(
        f"looking into 2 image files of {folder.json}; dataloader."
    )


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 1, "headers": {"a": [1]}}', '{"version": 0, "headers": {}}', "\0"],
)
def test_a_damaged_memory_is_no_error(folder, opened, content):
    Path(f"{folder.json}{KNOWN}").write_text(content)
    folder.load()
    folder.load()
    assert sorted(opened) == ["a.png", "b.png"]
    assert json.loads(Path(f"{folder.json}{KNOWN}").read_text())["version"] == look.VERSION


def test_a_folder_that_cannot_be_written_to_is_no_error(folder, opened, caplog):
    caplog.set_level(logging.INFO)
    for suffix in (KNOWN, BAD):  # root may write anywhere: what stands in the way are folders
        Path(f"{folder.json}{suffix}").mkdir()
    folder.load()
    folder.load()
    assert len(opened) == 4
    assert "the next start checks all images again" in caplog.text
    for number in range(4):
        add(folder, f"{number}.png", lambda path: path.write_text("hello"))
    with pytest.raises(
        ImageError, match=r"4 of 6 image .* and 1 more \(the log lists all of them\)$"
    ):
        folder.load()
    assert all(f"{number}.png can't be read" in caplog.text for number in range(4))


def work(rank: int, meeting: Path, arguments: tuple, results: multiprocessing.Queue) -> None:
    with gloo(meeting).joined(rank, rank):
        opened = []
        original = look.open_image
        look.open_image = lambda path: opened.append(path) or original(path)
        try:
            coco_dataset(*arguments)
            trouble = ""
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
        results.put((comm.get_rank(), len(opened), trouble))


@pytest.mark.parametrize("bad", [False, True])
def test_one_process_of_a_machine_looks(folder, tmp_path, bad: bool):
    if bad:
        add(folder, "text.jpg", lambda path: path.write_text("hello"))
    folder.write()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (folder.name, folder.images, folder.json)
    processes = [
        context.Process(target=work, args=(rank, tmp_path / "meeting", arguments, results))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert [count for _, count, _ in found] == [2 + bad, 0]
    (_, _, first), (_, _, second) = found
    assert first == second
    assert first.startswith(f"ImageError: {folder.json}: 1 of 3") if bad else first == ""


def test_the_measurement():
    rows = measure_images(files=20, threads=2)
    assert [row["files"] for row in rows] == ["JPEG"] * 3 + ["PNG"] * 3
    assert all(row["CPU s"] > 0 and row["s"] > 0 for row in rows)
