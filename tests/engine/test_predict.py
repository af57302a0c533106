"""Prediction from files and images in memory: as in the evaluation, or an error that helps."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import Instances
from PIL import Image

from ms_detr.config import load
from ms_detr.data import ImageError, ResizeShortestEdge, coco_dataset
from ms_detr.engine import load_model, predict
from tests.data.test_images import STORED
from tests.tiny_checkpoint import SMALL

KEYS = [*SMALL, "train.device=cpu"]


@pytest.fixture(scope="module")
def cfg(demo_dataset: Path):
    """The demo's config, smaller, that enlarges its test images and takes them as BGR."""
    cfg = load("demo/ms_detr.py", KEYS)
    cfg.dataloader.test.mapper.augmentations = [
        L(ResizeShortestEdge)(short_edge_length=160, max_size=200)
    ]
    cfg.dataloader.test.mapper.image_format = "BGR"
    cfg.dataloader.test.batch_size = 3
    cfg.dataloader.test.dataset = L(coco_dataset)(
        name="tests_demo_val",
        images=str(demo_dataset / "val"),
        annotations=str(demo_dataset / "annotations" / "val.json"),
    )
    return cfg


@pytest.fixture(scope="module")
def model(cfg, tmp_path_factory):
    torch.manual_seed(0)
    built = instantiate(cfg.model)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    weights = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": built.state_dict()}, weights)
    return load_model(weights, cfg).double()  # in a batch as alone, to the last digits


def assert_same(found: Instances, expected: Instances) -> None:
    assert found.image_size == expected.image_size
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-9)
    boxes, others = found.pred_boxes.tensor, expected.pred_boxes.tensor
    torch.testing.assert_close(boxes, others, rtol=0, atol=1e-4)
    assert torch.equal(found.pred_classes, expected.pred_classes)


def test_the_same_as_in_the_evaluation(model, cfg):
    """Files in a list, against what the model gives for the evaluation's loader."""
    batches = list(instantiate(cfg.dataloader.test))
    inputs = [x for batch in batches for x in batch]
    with torch.no_grad():
        expected = [output["instances"] for batch in batches for output in model(batch)]
    found = predict(model, [x["file_name"] for x in inputs])
    assert len(found) == len(expected) == 12
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert inputs[0]["image"].shape == (3, 160, 160) and found[0].image_size == (128, 128)
    assert not torch.equal(found[0].scores, found[1].scores)
    assert_same(predict(model, Path(inputs[4]["file_name"])), expected[4])


@pytest.fixture(scope="module")
def pixels(demo_dataset: Path) -> np.ndarray:
    """An image wider than high."""
    file = min((demo_dataset / "val").iterdir())
    return np.array(Image.open(file).convert("RGB"))[:80]


def test_files_images_and_arrays(model, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rgba = Image.fromarray(pixels).convert("RGBA")
    images = [tmp_path / "a.png", str(tmp_path / "a.png"), rgba, Image.open(tmp_path / "a.png")]
    expected = predict(model, pixels)
    assert expected.image_size == (80, 128)
    for image in images:
        assert_same(predict(model, image), expected)
    other = predict(model, pixels[..., ::-1])
    assert not torch.allclose(other.scores, expected.scores)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_every_orientation(model, pixels, tmp_path, suffix):
    expected = predict(model, pixels)
    files = []
    for orientation, turn in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(tmp_path / f"{orientation}.{suffix}")
        Image.fromarray(np.ascontiguousarray(turn(pixels))).save(files[-1], exif=exif)
    opened = [Image.open(file) for file in files]
    decoded = [Image.open(file) for file in files]
    for image in decoded:
        image.load()
    for found in predict(model, files + opened + decoded):
        assert_same(found, expected)


def test_batches_hold_images_of_one_size(model, pixels):
    """And the results come in the order of the images, the same as alone."""
    shapes = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    images = [pixels[: 40 + 30 * (i % 2), i:] if i < 5 else pixels for i in range(9)]
    images[2] = images[0]
    try:
        found = predict(model, images)
        assert len(shapes) == 6 and sorted(shape[0] for shape in shapes) == [1, 1, 1, 1, 2, 3]
    finally:
        hook.remove()
    for image, one in zip(images, found, strict=True):
        assert one.image_size == image.shape[:2]
        assert_same(one, predict(model, image))
    assert predict(model, []) == []


def test_results_are_plain_tensors(model, pixels):
    model.train()
    try:
        found = predict(model, pixels)
        assert model.training
    finally:
        model.eval()
    assert found.scores.numpy().shape == (len(found),)
    assert not found.pred_boxes.tensor.requires_grad
    found.pred_boxes.scale(0.5, 0.5)  # in place, which inference_mode would forbid
    (direct,) = model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])
    assert direct["instances"].scores.numpy().shape == (72,)
    assert direct["instances"].pred_boxes.tensor.grad_fn is None
    image = torch.rand(1, 3, 64, 64).double()
    logits = model.forward_tensors(image, torch.zeros(1, 64, 64, dtype=torch.bool))["decoder"]
    assert logits.logits.requires_grad


GREY = np.zeros((8, 9), np.uint8)
WRONG = {
    "0 to 1": (np.ones((8, 9, 3), np.float32), r"\(255 \* image\)\.round\(\)\.astype"),
    "float": (np.full((8, 9, 3), 200.0), r"\(image\)\.round\(\)\.astype\(numpy\.uint8\)"),
    "16 bits": (np.zeros((8, 9, 3), np.uint16), r"isn't of 8 bits"),
    "channels first": (np.zeros((3, 8, 9), np.uint8), r"image\.transpose\(1, 2, 0\)"),
    "grey": (GREY, r"one channel: PIL\.Image\.fromarray"),
    "one channel": (GREY[..., None], r"one channel"),
    "alpha": (np.zeros((8, 9, 4), np.uint8), r"alpha channel: image\[\.\.\., :3\]"),
    "mask": (GREY == 0, "is a mask"),
    "empty": (np.zeros((0, 9, 3), np.uint8), "is empty"),
    "batch": (np.zeros((2, 8, 9, 3), np.uint8), r"list\(images\)"),
    "two channels": (np.zeros((8, 9, 2), np.uint8), "another shape"),
}


@pytest.mark.parametrize(("image", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arrays(model, pixels, image, message):
    wanted = re.escape("give a path, a PIL image, or a uint8 array (H, W, 3) of RGB values from 0")
    with pytest.raises(ImageError, match=rf"images\[1\], an array of .*{message}.*; {wanted}"):
        predict(model, [pixels, image])


def test_other_wrong_images(model, cfg, tmp_path):
    tensor = torch.zeros(3, 8, 9, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"a tensor of torch\.uint8 \(3, 8, 9\); .*permute"):
        predict(model, tensor)
    for image in (None, {"file_name": "a.png"}, 3):
        with pytest.raises(TypeError, match=f"the image is a {type(image).__name__}; give a path"):
            predict(model, image)
    with pytest.raises(FileNotFoundError, match="there is no image file gone.png"):
        predict(model, "gone.png")
    with pytest.raises(ImageError, match="is a folder, not an image file"):
        predict(model, tmp_path)
    with pytest.raises(ImageError, match=r"more than 8 bits per channel \(mode I;16\)"):
        predict(model, Image.fromarray(np.zeros((8, 9), np.uint16)))
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:2000])
    with (
        Image.open(tmp_path / "a.png") as image,
        pytest.raises(ImageError, match=r"images\[0\] can't be decoded"),
    ):
        predict(model, [image])


def test_the_config_needs_our_mapper(model, cfg):
    other = copy.deepcopy(cfg)
    other.dataloader.test.mapper = L(DatasetMapper)(
        is_train=False, augmentations=[], image_format="RGB"
    )
    with pytest.raises(ValueError, match=r"dataloader\.test\.mapper is a DatasetMapper"):
        predict(model, "a.png", other)


KINDS = {
    "float": torch.rand(3, 8, 9),
    "height, width, channels": torch.zeros(8, 9, 3, dtype=torch.uint8),
    "one channel": torch.zeros(1, 8, 9, dtype=torch.uint8),
    "batch": torch.zeros(1, 3, 8, 9, dtype=torch.uint8),
    "empty": torch.zeros(3, 0, 9, dtype=torch.uint8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_the_model_refuses_other_images(model, kind, training):
    image = KINDS[kind]
    found = re.escape(f"got {image.dtype} {tuple(image.shape)}; ms_detr.engine.predict")
    model.train(training)
    try:
        with pytest.raises(ValueError, match=rf"image a\.png: .*\(3, H, W\) .* 255, {found}"):
            model([{"image": image, "file_name": "a.png"}])
    finally:
        model.eval()


@pytest.mark.parametrize("batch", ["a.png", torch.zeros(1, 3, 8, 9), [{}], [np.zeros((8, 9, 3))]])
def test_the_model_takes_dicts(model, batch):
    with pytest.raises(ValueError, match="the model takes a list of dicts whose 'image' is"):
        model(batch)
