"""`ms-detr export`: what it refuses, and one file of a small model on all its ways."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ms_detr
from ms_detr.cli import main
from ms_detr.errors import ConfigError
from ms_detr.exporting import Form, formats, tracing
from ms_detr.exporting.interface import NormalisedInput
from ms_detr.files import PARTIAL
from tests.conftest import ROOT
from tests.tiny_checkpoint import CLASSES, write_tiny

EXAMPLE = ROOT / "docs" / "examples" / "onnx_predict.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("tiny") / "model_final.pth"
    return str(write_tiny(file, resized=True, dense=True))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Two images of noise, one of them turned by its tag, with names that people give them."""
    folder = tmp_path_factory.mktemp("my photos ü")
    rng = np.random.default_rng(0)
    files = []
    for name, size in (("wide", (90, 150)), ("tall", (140, 80))):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8))
        file = folder / f"{name}.png"
        turned = Image.Exif()
        turned[0x0112] = 6 if name == "tall" else 1
        coarse.resize(size[::-1], Image.BICUBIC).save(file, exif=turned)
        files.append(str(file))
    return files


@pytest.fixture(scope="module")
def exported(weights, photos, tmp_path_factory):
    """The file, and what the command printed while it checked it."""
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    words = ["export", "--weights", weights, "--output", str(file), "--json", "--check", *photos]
    done = subprocess.run(
        [sys.executable, "-m", "ms_detr", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return file, json.loads(done.stdout)


@pytest.mark.slow
def test_check_finds_no_difference(exported, photos):
    _, printed = exported
    assert printed["agrees"]
    assert [one["image"] for one in printed["images"]] == photos
    for one in printed["images"]:
        assert one["objects"] > 50 and one["missing"] == 0
        assert max(one["scores"], one["boxes"]) < 1e-4


@pytest.mark.slow
def test_metadata_and_sizes(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported[0])
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["class_names"]) == list(CLASSES)
    preprocessing = json.loads(facts["preprocessing"])
    assert preprocessing["resize"] == [{"kind": "resize_shortest_edge", "edge": 160, "max": 320}]
    assert preprocessing["inside"] and preprocessing["channels"] == "RGB"
    assert facts["ms_detr"] == ms_detr.__version__
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes["images"] == ["batch", 3, "height", "width"]
    assert sizes["sizes"] == ["batch", 2]
    assert sizes["boxes"] == ["batch", 100, 4]
    content = exported[0].read_bytes()
    assert str(ROOT).encode() not in content and b"torch/nn" not in content
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}  # no operator of ours


WITHOUT_TORCH = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "ms_detr", "detectron2"):
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_example_needs_no_torch(exported, photos, weights, tmp_path):
    """Boxes in pixels of the upright images are those of `predict`."""
    pytest.importorskip("onnxruntime")
    words = [str(EXAMPLE), str(exported[0]), *photos, "--threshold", "0"]
    code = WITHOUT_TORCH.replace("sys.argv[0]", repr(str(EXAMPLE)))
    done = subprocess.run(
        [sys.executable, "-c", code, *words[1:]],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["objects"] for line in done.stdout.splitlines()]
    expected = ms_detr.predict(ms_detr.load_model(weights), photos)
    for objects, instances in zip(found, expected, strict=True):
        scores = instances.scores.numpy()
        assert len(objects) == len(scores)
        np.testing.assert_allclose([x["score"] for x in objects], scores, atol=1e-4)
        sure = np.flatnonzero(np.abs(np.diff(scores, prepend=9, append=-9)) > 1e-5)
        alone = [i for i in sure if i + 1 in sure and i < len(scores)]
        assert len(alone) > 20
        boxes = instances.pred_boxes.tensor.numpy()
        for index in alone:
            assert CLASSES[instances.pred_classes[index]] == objects[index]["name"]
            np.testing.assert_allclose(objects[index]["box"], boxes[index], atol=0.05)


@pytest.mark.slow
def test_a_different_file_is_told(exported, photos, tmp_path, monkeypatch, capsys):
    """The check sees what the file predicts, and not the model twice."""
    other = write_tiny(tmp_path / "other.pth", resized=True, dense=True)
    content = torch.load(other, weights_only=True)
    for tensor in content["model"].values():
        if tensor.is_floating_point():
            tensor.mul_(1.01)
    torch.save(content, other)
    written = exported[0].read_bytes()
    kind = formats.FORMATS["onnx"]
    monkeypatch.setattr(type(kind), "write", lambda self, a, b, c, path: path.write_bytes(written))
    monkeypatch.setattr("ms_detr.exporting.writing.trace", lambda model: None)
    monkeypatch.setattr("ms_detr.exporting.writing.least_sides", lambda program: [1, 1])
    output = tmp_path / "model.onnx"
    words = ["export", "--weights", str(other), "--output", str(output), "--check", *photos]
    assert main(words) == 1
    assert "differ by more than 0.001" in capsys.readouterr().err


@pytest.fixture
def untraced(monkeypatch):
    """Nothing may be traced: what is wrong is found before."""

    def refuse(*_):
        raise AssertionError("traced")

    monkeypatch.setattr("ms_detr.exporting.writing.trace", refuse)


def fails(words: list[str], capsys) -> str:
    assert main(["export", *words]) == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("untraced")
class TestRefused:
    def test_format(self, weights, capsys):
        with pytest.raises(SystemExit):
            main(["export", "--weights", weights, "--format", "tflite"])
        assert "onnx" in capsys.readouterr().err

    def test_output_that_exists(self, weights, tmp_path, capsys):
        output = tmp_path / "a model.onnx"
        output.write_text("mine")
        said = fails(["--weights", weights, "--output", str(output)], capsys)
        assert f"{output} exists" in said and output.read_text() == "mine"

    def test_name(self, weights, tmp_path, capsys):
        said = fails(["--weights", weights, "--output", str(tmp_path / "model.pt")], capsys)
        assert "must end in .onnx" in said

    def test_place(self, weights, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        said = fails(["--weights", weights, "--output", str(tmp_path / "file/model.onnx")], capsys)
        assert str(tmp_path / "file") in said

    def test_package(self, weights, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
        output = str(tmp_path / "model.onnx")
        said = fails(["--weights", weights, "--output", output, "--check", "x.png"], capsys)
        assert "pip install onnx onnxscript onnxruntime" in said

    def test_weights(self, weights, tmp_path, capsys):
        output = ["--output", str(tmp_path / "model.onnx")]
        assert "not found" in fails(["--weights", "nothing.pth", *output], capsys)
        state = torch.load(weights, weights_only=True)["model"]
        torch.save({"model": state}, tmp_path / "bare.pth")
        said = fails(["--weights", str(tmp_path / "bare.pth"), *output], capsys)
        assert "keeps no config" in said

    def test_masks_of_a_model_without(self, weights, tmp_path, capsys):
        output = ["--output", str(tmp_path / "model.onnx"), "--masks"]
        assert "no mask branch" in fails(["--weights", weights, *output], capsys)

    def test_image(self, weights, tmp_path, capsys):
        output = ["--output", str(tmp_path / "model.onnx")]
        (tmp_path / "text.jpg").write_text("no image")
        said = fails(["--weights", weights, *output, "--check", str(tmp_path / "text.jpg")], capsys)
        assert "text.jpg" in said

    def test_image_larger_than_the_size(self, weights, photos, tmp_path, capsys, monkeypatch):
        output = ["--output", str(tmp_path / "model.onnx"), "--size", "64", "64"]
        said = fails(["--weights", weights, *output, "--check", *photos], capsys)
        assert "larger than 64 x 64" in said

    def test_overrides_without_config(self, weights, capsys):
        assert "--config-file" in fails(["--weights", weights, "--opts", "a=b"], capsys)


class Untraceable(torch.nn.Module):
    """Its output's size depends on its values, to begin with."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Whole(torch.nn.Module):
    """Takes a detector's place."""

    form = Form()
    inputs = NormalisedInput()

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Sequential(Untraceable()))

    def forward(self, images, sizes):
        return self.model(images)


def test_the_part_that_cannot_be_exported_is_named(capsys):
    with pytest.raises(ConfigError, match=r"^model\.1\.0 can't be exported: .*data-dependent"):
        tracing.trace(Whole())
    assert capsys.readouterr().err == ""


def test_nothing_is_left_of_an_interrupted_export(weights, tmp_path, monkeypatch, capsys):
    def interrupted(self, program, outputs, facts, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(formats.TorchExport, "write", interrupted)
    monkeypatch.setattr("ms_detr.exporting.writing.trace", lambda model: None)
    monkeypatch.setattr("ms_detr.exporting.writing.least_sides", lambda program: [1, 1])
    output = tmp_path / "model.pt2"
    words = ["export", "--weights", weights, "--format", "torch-export", "--output", str(output)]
    assert main(words) == 130
    assert not list(tmp_path.glob(f"*{PARTIAL}")) and not output.exists()


def test_an_operator_of_a_library_is_told():
    class Ours(torch.nn.Module):
        def forward(self, x):
            return torch.ops.torchvision.nms(x, x[:, 0], 0.5)

    program = torch.export.export(torch.nn.Sequential(Ours()), (torch.rand(3, 4),))
    with pytest.raises(ValueError, match=r"can't be exported.*torchvision::nms"):
        tracing._expect_plain(program)


def test_formats_of_the_verb_are_those_there_are():
    from ms_detr.cli import export as verb

    assert set(verb.FORMATS) == set(formats.FORMATS)
    assert Path(EXAMPLE).is_file()
