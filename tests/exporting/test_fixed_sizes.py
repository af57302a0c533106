"""Files of one size and number of images: `--size` and `--batch`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import ms_detr
from ms_detr.cli import main
from ms_detr.errors import SystemLimitError
from ms_detr.exporting import FORMATS, Form, tracing
from ms_detr.exporting.interface import INPUTS, PixelInput
from tests.exporting.test_ap import example
from tests.tiny_checkpoint import write_tiny

SIZE = (151, 155)  # no stride divides them
FORMS = pytest.mark.parametrize("format", sorted(FORMATS))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Three pictures of odd sizes, one of the files' own."""
    folder = tmp_path_factory.mktemp("my photos ü")
    rng = np.random.default_rng(0)
    files = []
    for height, width in ((97, 140), (64, 61), SIZE):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8))
        files.append(str(folder / f"{width} x {height}.png"))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("weights") / "model.pth", dense=True))


@pytest.fixture(scope="module")
def files(weights, photos, tmp_path_factory):
    """By format: a file of two images of one size, and what the check of three has printed."""
    folder = tmp_path_factory.mktemp("fixed")

    def make(format, capsys):
        file = folder / f"fixed{FORMATS[format].suffix}"
        words = ["export", "--weights", weights, "--output", str(file), "--format", format]
        words += ["--batch", "2", "--size", *map(str, SIZE), "--json", "--check", *photos]
        if not file.exists():
            assert main(words) == 0
            file.with_suffix(".json").write_text(capsys.readouterr().out)
        return file, json.loads(file.with_suffix(".json").read_text())

    return make


@pytest.mark.slow
@FORMS
def test_the_check_of_more_and_fewer_images_than_a_batch(format, files, photos, capsys):
    _, printed = files(format, capsys)
    assert printed["agrees"] and [one["image"] for one in printed["images"]] == photos
    for one in printed["images"]:
        assert one["objects"] > 50 and max(one["scores"], one["boxes"]) < 1e-4


@pytest.mark.slow
@FORMS
def test_other_sizes_are_refused(format, files, capsys):
    run = FORMATS[format].open(files(format, capsys)[0])

    def given(batch, height, width):
        sizes = np.array([[height, width]] * batch)
        return run(np.zeros((batch, 3, height, width), np.uint8), sizes)

    assert given(2, *SIZE)["boxes"].shape == (2, 100, 4)
    for other in ((1, *SIZE), (3, *SIZE), (2, 160, 160), (2, SIZE[0], SIZE[1] + 1), (2, 64, 64)):
        with pytest.raises(Exception, match=r"size\(\)|invalid dimensions|have to be padded"):
            given(*other)


@pytest.mark.slow
def test_the_example_fills_what_a_file_takes(files, weights, photos, capsys):
    """A padded picture isn't quite its own to DETR: what is found is compared with the model's."""
    pytest.importorskip("onnxruntime")
    detector = example().Detector(str(files("onnx", capsys)[0]), threshold=0.0)
    own = photos[-1]
    found = detector(Image.open(own))
    expected = ms_detr.predict(ms_detr.load_model(weights), own)
    scores = expected.scores.numpy()
    np.testing.assert_allclose([x["score"] for x in found], scores, atol=1e-4)
    assert len(detector(Image.open(photos[0]))) == 100


@pytest.mark.slow
@FORMS
def test_a_difference_above_the_tolerance_is_status_1(
    format, weights, photos, tmp_path, monkeypatch, capsys
):
    """A file whose boxes are a hundredth off; it stays, to be looked at."""
    kind = type(FORMATS[format])
    opened = kind.open

    def off(self, path):
        run = opened(self, path)
        return lambda *inputs: {
            name: x + np.float32(0.01) if name == "boxes" else x for name, x in run(*inputs).items()
        }

    monkeypatch.setattr(kind, "open", off)
    file = tmp_path / f"off{FORMATS[format].suffix}"
    words = ["export", "--weights", weights, "--format", format, "--size", *map(str, SIZE)]
    assert main([*words, "--output", str(file), "--check", photos[0]]) == 1
    out, err = capsys.readouterr()
    assert "differ by more than 0.001" in err and "0.01" in out and file.is_file()


class Sized:
    """Takes the place of what is exported."""

    inputs = PixelInput

    def __init__(self, **form):
        self.form = Form(**form)


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ({}, tracing.EXAMPLE),
        ({"batch": 3}, (3, *tracing.EXAMPLE[1:])),
        ({"size": SIZE}, (2, *SIZE)),
        ({"batch": 1, "size": (1, 1)}, (1, 1, 1)),
    ],
)
def test_what_is_traced_has_the_sizes_that_are_fixed(form, shape):
    images, sizes = tracing._example(Sized(**form))
    assert images.shape == (shape[0], 3, *shape[1:]) and images.dtype == torch.uint8
    assert sizes.tolist() == [list(shape[1:])] * shape[0]
    free = [set(x) for x in tracing._shapes(Form(**form))]
    sides = set() if "size" in form else {2, 3}
    batch = set() if "batch" in form else {0}
    assert dict(zip(INPUTS, free, strict=True)) == {"images": batch | sides, "sizes": batch}


@pytest.mark.parametrize("form", [{"size": (10**7, 10**7)}, {"batch": 10**12}])
def test_sizes_that_no_memory_holds(form):
    with pytest.raises(SystemLimitError, match="out of memory.*choose a smaller --batch"):
        tracing._example(Sized(**form))
