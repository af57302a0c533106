"""`ms-detr predict`, on images of all kinds, good and bad."""

import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path
from struct import pack
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

import ms_detr
from ms_detr.cli import main
from ms_detr.cli import predict as verb
from ms_detr.cli._progress import Counter
from ms_detr.data import load_image
from ms_detr.data.images import MAX_PIXELS
from ms_detr.data.video import open_video, write_video
from tests.conftest import on_linux
from tests.data.test_images import STORED
from tests.tiny_checkpoint import CLASSES, write_tiny


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "model_final.pth"))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Images of all modes, some of them turned, with names that people give them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my photos ü"
    (folder / "sub").mkdir(parents=True)
    image = Image.fromarray(noise(40, 60))
    for mode in ("L", "RGBA", "P", "LA", "1"):
        image.convert(mode).save(folder / f"{mode}.png")
    image.convert("CMYK").save(folder / "CMYK.jpg")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(STORED[6](noise(40, 60)))).save(
        folder / "sub" / "turned.png", exif=sideways
    )
    Image.fromarray(noise(60, 40)).save(folder / "sub" / "RGBA.png")
    return folder


def predicted(weights: str, *words: str, threshold: str = "0.02") -> int:
    return main(["predict", *words, "--weights", weights, "--threshold", threshold])


def test_pictures_and_results(weights, photos, capsys):
    assert predicted(weights, str(photos), "--output", "out", "--json", "a.json") == 0
    printed = capsys.readouterr()
    assert not printed.err
    results = json.loads(Path("a.json").read_text())
    assert re.fullmatch(
        rf"8 images: {len(results)} objects \(.*\d+ star.*\); pictures in out; a\.json\n",
        printed.out,
    )
    files = sorted(str(path) for path in photos.rglob("*.*"))
    assert len(files) == 8
    model = ms_detr.load_model(weights)
    expected = []
    for number, (file, found) in enumerate(
        zip(files, ms_detr.predict(model, files), strict=True), 1
    ):
        size = load_image(file)[1].size
        assert found.image_size == size[::-1]
        for k in range(len(found)):
            if found.scores[k] < 0.02:
                continue
            label = int(found.pred_classes[k])
            x1, y1, x2, y2 = found.pred_boxes.tensor[k].tolist()
            expected.append(
                {
                    "image_id": number,
                    "category_id": label,
                    "bbox": pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-3),
                    "score": pytest.approx(float(found.scores[k]), abs=1e-6),
                    "category_name": CLASSES[label],
                    "file_name": file,
                }
            )
    assert results == expected and len({result["image_id"] for result in results}) == 8
    pictures = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*"))
    names = ["1.png", "CMYK.png", "L.png", "LA.png", "P.png", "RGBA.png"]
    assert pictures == [*names, "sub/RGBA.png", "sub/turned.png"]
    for name in pictures:
        with Image.open(Path("out") / name) as picture:
            picture.load()
            wide = name != "sub/RGBA.png"
            assert picture.size == ((576, 384) if wide else (384, 576))


def same_scores(results, found):
    """In single precision, written with the fewest digits that tell them."""
    scores = [result["score"] for result in results]
    assert np.array_equal(np.float32(scores), found.scores.numpy())
    assert all(len(str(score)) <= len("0.012345678e-05") for score in scores)
    boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).numpy()
    sides = [side for result in results for side in result["bbox"]]
    assert np.array_equal(np.float32(sides), boxes.flatten())
    assert all(len(str(side)) <= len("-12.345678") + 1 for side in sides)


def test_csv_choices_and_tiles(weights, photos, capsys):
    words = ["--csv", "-", "--classes", "star", "1", "--top", "2"]
    assert predicted(weights, str(photos / "L.png"), *words) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("1 image: 2 objects (")
    assert not Path("output").exists()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    predictor = ms_detr.Predictor(weights, threshold=0.02, classes=["star", "rectangle"], top=2)
    (found,) = predictor(photos / "L.png")
    assert [row["name"] for row in rows] == [CLASSES[k] for k in found.pred_classes.tolist()]
    assert [int(row["class"]) for row in rows] == found.pred_classes.tolist()
    assert {row["file"] for row in rows} == {str(photos / "L.png")}
    assert {row["frame"] for row in rows} == {""}
    for row, box, score in zip(rows, found.pred_boxes, found.scores.tolist(), strict=True):
        x1, y1, x2, y2 = box.tolist()
        values = [float(row[key]) for key in ("x", "y", "width", "height", "score")]
        assert values == pytest.approx([x1, y1, x2 - x1, y2 - y1, score], abs=1e-5)

    words = ["--json", "-", "--tile", "32", "--overlap", "0.5", "--nms", "0.4"]
    assert predicted(weights, str(photos / "L.png"), *words) == 0
    results = json.loads(capsys.readouterr().out)
    (found,) = ms_detr.Predictor(weights, threshold=0.02, tile=32, overlap=0.5, nms=0.4)(
        photos / "L.png"
    )
    same_scores(results, found)


def test_masks(photos, tmp_path_factory, capsys):
    weights = str(write_tiny(tmp_path_factory.mktemp("tiny") / "masks.pth", masks=True))
    file = str(photos / "L.png")
    assert predicted(weights, file, "--json", "-", "--output", "out", "--top", "3") == 0
    results = json.loads(capsys.readouterr().out)
    from pycocotools import mask as coco_mask

    (found,) = ms_detr.Predictor(weights, threshold=0.02, top=3)(file)
    assert len(results) == 3
    for result, mask in zip(results, found.pred_masks, strict=True):
        decoded = coco_mask.decode(result["segmentation"])
        assert np.array_equal(decoded, mask.numpy()) and mask.any()
    assert Path("out/L.png").is_file()


def png_header(width: int, height: int) -> bytes:
    """A small file that claims to hold an image of this size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return pack(">I", len(content)) + name + content + pack(">I", zlib.crc32(name + content))

    head = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def test_what_cannot_be_read_is_said_and_the_rest_goes_on(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Image.fromarray(noise(40, 60)).save("in/good.jpg")
    content = Path("in/good.jpg").read_bytes()
    Path("in/cut.jpg").write_bytes(content[: len(content) // 2])
    Path("in/text.jpg").write_text("hello")
    Path("in/empty.png").touch()
    Image.fromarray(np.full((9, 8), 40000, np.uint16)).save("in/deep.png")
    Path("in/bomb.png").write_bytes(png_header(60_000, 60_000))
    os.mkfifo("in/pipe.png")
    Path("in/clip.mp4").write_text("hello")
    Image.fromarray(noise(1, 1)).save("in/one.png")
    Image.fromarray(noise(1, 20_000)).save("in/thin.png")
    Image.fromarray(noise(70_000, 1)).save("in/thinner.png")
    Path("none").mkdir()
    words = ["in", "none", "gone.jpg", "*.gif", "--output", "out", "--json", "a.json"]
    assert predicted(weights, *words) == verb.UNREAD == 1
    printed = capsys.readouterr()
    problems = sorted(printed.err.splitlines())
    assert len(problems) == 10
    for problem, reason in zip(
        problems,
        [
            r"in/bomb.png can't be read as an image: DecompressionBombError",
            r"in/clip.mp4 can't be read as a video",
            r"in/cut.jpg can't be read as an image: OSError: image file is truncated",
            r"in/deep.png has more than 8 bits per channel",
            r"in/empty.png can't be read as an image",
            r"in/pipe.png is a named pipe, not an image file",
            r"in/text.jpg can't be read as an image",
            r"there is no image and no video in the folder none",
            r"there is no image and no video in the pattern \*.gif",
            r"there is no image file gone.jpg",
        ],
        strict=True,
    ):
        assert re.match(f"skipped: {reason}", problem), problem
    assert printed.out.startswith("4 images: ")
    names = ["good.png", "one.png", "thin.png", "thinner.png"]
    assert sorted(os.listdir("out")) == names
    # An image keeps its number, whatever can be read.
    numbers = {x["image_id"]: x["file_name"] for x in json.loads(Path("a.json").read_text())}
    files = sorted(name for name in os.listdir("in") if name != "clip.mp4")
    assert numbers.items() <= {n: f"in/{name}" for n, name in enumerate(files, 1)}.items()
    assert "in/good.jpg" in numbers.values()


def test_how_large_images_may_be(weights, photos, capsys, recwarn):
    one = str(photos / "L.png")  # 2400 pixels
    for most, status in ((2400, 0), (2398, 2)):
        words = ["--json", "-", "--max-pixels", str(most)]
        assert predicted(weights, one, *words) == status
        printed = capsys.readouterr()
        assert ("exceeds limit of 2398 pixels" in printed.err) == bool(status)
    assert not [w for w in recwarn if w.category is Image.DecompressionBombWarning]
    assert Image.MAX_IMAGE_PIXELS * 2 == MAX_PIXELS


def test_a_video_and_images(weights, photos, capsys):
    with write_video(photos / "clip.mp4", 10) as add:
        for number in range(10):
            add(noise(48, 64, number))
    assert predicted(weights, str(photos), "--output", "out", "--csv", "a.csv") == 0
    assert capsys.readouterr().out.startswith("18 images: ")
    with open_video("out/clip.mp4") as drawn:
        assert (drawn.rate, drawn.count) == (10, 10)
        assert {frame.shape for frame in drawn.frames} == {(384, 512, 3)}
    with open("a.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].endswith("clip.mp4")]
    assert sorted({int(row["frame"]) for row in rows}) == list(range(10))
    with open_video(photos / "clip.mp4") as video:
        found = ms_detr.Predictor(weights, threshold=0.02)(list(video.frames))
    scores = [score for one in found for score in one.scores.tolist()]
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, abs=1e-6)


def test_the_standard_input(weights, photos, monkeypatch, capsys):
    content = (photos / "L.png").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert predicted(weights, "-", "--json", "-", "--output", "out") == 0
    results = json.loads(capsys.readouterr().out)
    (expected,) = ms_detr.Predictor(weights, threshold=0.02)(photos / "L.png")
    same_scores(results, expected)
    assert os.listdir("out") == ["stdin.png"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"hello")))
    assert predicted(weights, "-", "--json", "-") == verb.NOTHING == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert printed.err.startswith("skipped: the standard input can't be read as an image")


def wrong(capsys, *words: str) -> str:
    """The one line that a command ends with that its user can mend."""
    assert main(["predict", *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err.removeprefix("error: ").strip()


def test_what_a_user_can_mend(weights, photos, capsys):
    one = str(photos / "L.png")
    Path("empty").mkdir()
    says = "there is no image and no video in the folder empty"
    assert wrong(capsys, "empty", "--weights", weights) == says
    Path("a file").touch()
    for words in (["--output", "a file"], ["--json", "a file/b.json"]):
        assert re.match(
            "a file: (File exists|Not a dir)", wrong(capsys, one, "--weights", weights, *words)
        )
    for option in ("--json", "--csv"):
        words = [one, "--weights", weights, option, "empty"]
        assert wrong(capsys, *words) == "empty is a folder: give a file"
    both = ["--json", "-", "--csv", "-"]
    assert "can't both go to the standard output" in wrong(capsys, one, "--weights", weights, *both)
    os.chdir(photos)
    says = "choose another place"
    assert says in wrong(capsys, "L.png", "--weights", weights, "--output", ".")
    assert says in wrong(capsys, "L.png", "--weights", weights, "--json", "sub/../L.png")
    says = wrong(capsys, "L.png", "--weights", weights, "--classes", "stars")
    assert says.startswith("there is no class 'stars'; the nearest are star")
    assert "threshold is from 0 to 1" in wrong(
        capsys, "L.png", "--weights", weights, "--threshold", "30"
    )
    assert "--config-file" in wrong(capsys, "L.png", "--weights", weights, "--opts", "a=1")
    assert "gone.pth" in wrong(capsys, "L.png", "--weights", "gone.pth")
    assert sorted(os.listdir()) == sorted(path.name for path in photos.iterdir())


def test_nothing_that_is_read_or_written_is_written_over(weights, photos, capsys):
    os.chdir(photos)
    copy = Path("model.png")
    copy.write_bytes(Path(weights).read_bytes())
    Path("link.json").symlink_to(copy)
    Path("config.py").write_text("model = 1")
    says = "choose another place"
    for words in (
        ["--json", "model.png"],
        ["--csv", "link.json"],
        ["--config-file", "config.py", "--json", "sub/../config.py"],
        ["--json", "a", "--csv", "sub/../a"],
        ["--output", "out", "--csv", "out/L.png"],
    ):
        assert says in wrong(capsys, "L.png", "--weights", str(copy), *words)
    Path("sub/model.jpg").write_bytes(Path("CMYK.jpg").read_bytes())
    words = ["sub/model.jpg", "--output", ".", "--weights", str(copy)]
    assert wrong(capsys, *words) == f"model.png is to be read and to be written: {says}"
    assert copy.read_bytes() == Path(weights).read_bytes()


def test_a_second_run_leaves_its_own_pictures_out(weights, photos, capsys):
    os.chdir(photos)
    for _ in range(2):
        assert predicted(weights, ".", "--output", "out") == 0
        assert capsys.readouterr().out.startswith("8 images: ")


def test_results_to_pipes_and_through_links(weights, photos):
    one = str(photos / "L.png")
    os.mkfifo("pipe")
    Path("kept").mkdir()
    Path("kept/a.csv").write_text("old")
    Path("link.csv").symlink_to("kept/a.csv")
    with subprocess.Popen(["timeout", "60", "cat", "pipe"], stdout=subprocess.PIPE) as reader:
        assert predicted(weights, one, "--json", "pipe", "--csv", "link.csv") == 0
        assert reader.stdout is not None
        results = json.loads(reader.stdout.read())
    assert Path("link.csv").is_symlink() and Path("pipe").is_fifo()
    with open("kept/a.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(results) > 0


def test_names_that_are_no_text(weights, tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"in/\xff\n.png")
    Path("in").mkdir()
    Image.fromarray(noise(30, 30)).save(name)
    assert predicted(weights, "in", "--csv", "a.csv", "--json", "a.json", "--output", "out") == 0
    with open("a.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {name}
    assert {x["file_name"] for x in json.loads(Path("a.json").read_text())} == {name}
    assert Path(os.fsdecode(b"out/\xff\n.png")).is_file()
    assert predicted(weights, "in", "--csv", "-") == 0
    assert capsysbinary.readouterr().out.endswith(Path("a.csv").read_bytes())


def test_an_interruption_keeps_what_is_finished(weights, photos, monkeypatch, capsys):
    from ms_detr.cli import _predicting

    drawn = []

    def draw(*args):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(args)
        return noise(3, 3)

    monkeypatch.setattr(_predicting, "draw_objects", draw)
    assert predicted(weights, str(photos), "--output", "out", "--json", "a.json") == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(list(Path("out").rglob("*.png"))) == 2
    assert not list(Path().rglob("*.partial*"))
    assert len({x["file_name"] for x in json.loads(Path("a.json").read_text())}) == 2


def test_an_error_keeps_what_is_found(weights, photos, monkeypatch, capsys):
    from ms_detr.cli import _predicting

    drawn = []

    def draw(*args):
        if len(drawn) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "a.png")
        drawn.append(args)
        return noise(3, 3)

    monkeypatch.setattr(_predicting, "draw_objects", draw)
    words = [str(photos), "--output", "out", "--json", "a.json", "--csv", "a.csv"]
    assert predicted(weights, *words) == 2
    assert "No space left" in capsys.readouterr().err
    assert len({x["file_name"] for x in json.loads(Path("a.json").read_text())}) == 2
    with open("a.csv", newline="") as file:
        assert len({row["file"] for row in csv.DictReader(file)}) == 2


def test_pictures_whose_places_are_taken(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("in/x.png").mkdir(parents=True)
    long = 251 * "n"  # and ".png", and what a file is called until it is whole
    for name in ("x.jpg", "x.png/y.jpg", "z.jpg", f"{long}.png"):
        Image.fromarray(noise(40, 60)).save(Path("in") / name)
    with write_video(Path("in/v.mp4"), 10) as add:
        add(noise(48, 64))
    Path("out/v.mp4").mkdir(parents=True)
    assert predicted(weights, "in", "--output", "out", "--json", "a.json") == 1
    printed = capsys.readouterr()
    too_long, second, first = sorted(printed.err.splitlines(), key=lambda x: (long not in x, x))
    assert re.match("skipped: the picture of in/x.*, which can't be written to out/x.png", first)
    assert re.match("skipped: the picture of in/v.mp4, which can't be written to out/v.mp4", second)
    assert "File name too long" in too_long
    assert printed.out.startswith("5 images: ") and Path("out/z.png").is_file()
    assert len({x["file_name"] for x in json.loads(Path("a.json").read_text())}) == 5
    assert not list(Path().rglob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_a_real_process(weights, tmp_path, number, status):
    (tmp_path / "in").mkdir()
    for index in range(300):
        Image.fromarray(noise(200, 200, index)).save(tmp_path / "in" / f"{index}.png")
    with write_video(tmp_path / "in" / "clip.mp4", 10) as add:
        add(noise(48, 64))
    words = ["predict", "in", "--weights", weights, "--output", "out", "--csv", "a.csv"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ms_detr", *words, "--threshold", "0.02"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while len(list(tmp_path.glob("out/*.png"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == status
    assert "Traceback" not in err and "interrupted" in err
    pictures = list((tmp_path / "out").iterdir())
    assert 3 <= len(pictures) < 300
    for file in pictures:
        with Image.open(file) as picture:
            picture.load()
    with open(tmp_path / "a.csv", newline="") as file:
        listed = len({row["file"] for row in csv.DictReader(file)})
    assert listed >= 2  # the signal may come between a picture and its line
    assert re.match(rf"({len(pictures)}|{len(pictures) - 1}) images: ", out)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk(weights, photos, capsys):
    assert predicted(weights, str(photos / "L.png"), "--json", "/dev/full") == 2
    assert "error: /dev/full: No space left on device" in capsys.readouterr().err


def test_plain_lines_without_a_terminal(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Counter(40, "images") as counter:
        for _ in range(25):
            now[0] += 1
            counter.advance()
        counter.say("a problem")
    assert capsys.readouterr().err.splitlines() == [
        "10/40 images, eta 0:00:30",
        "20/40 images, eta 0:00:20",
        "a problem",
    ]


def test_a_line_at_the_bottom_of_a_terminal(monkeypatch):
    controller, terminal = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(terminal, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with Counter(3, "images") as counter:
            counter.advance()
            counter.say("skipped: [red]a.jpg")
            counter.advance()
    shown = b""
    with suppress(OSError):  # at the end; a terminal hands its text on in pieces
        while piece := os.read(controller, 100_000):
            shown += piece
    os.close(controller)
    shown = shown.decode()
    assert "2/3" in shown and "eta" in shown and "skipped: [red]a.jpg\r\n" in shown


@on_linux
@pytest.mark.slow
def test_memory_of_a_large_image_is_bounded(tmp_path):
    """20,000 x 8,000 pixels are 480 MB as an array."""
    weights = str(write_tiny(tmp_path / "model_final.pth", resized=True))
    Image.new("RGB", (20_000, 8_000), (90, 120, 30)).save(tmp_path / "large.png")
    code = (
        "import re, sys; from ms_detr.cli import main; "
        "import ms_detr.engine, ms_detr.visualization; "
        # Of this process alone: resource's peak is its parent's, too.
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]); "
        "base = peak(); status = main(); print((peak() - base) * 1024 / 480e6); sys.exit(status)"
    )
    for words in ([], ["--tile", "4000", "--json", "a.json"]):
        command = ["predict", "large.png", "--weights", weights, "--output", "out", *words]
        result = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0 and result.stderr == "", result.stderr
        assert float(result.stdout.splitlines()[-1]) < 3.1  # 7 bytes a pixel (2.3), and 350 MB
    with Image.open(tmp_path / "out" / "large.png") as picture:
        assert picture.size == (4000, 1600)
