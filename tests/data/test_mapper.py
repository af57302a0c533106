"""The mapper: the same inputs as Detectron2's, and files of every kind."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data.transforms import CropTransform, RandomCrop, RandomFlip, ResizeShortestEdge
from detectron2.structures import BoxMode
from PIL import Image

from ms_detr.data import DetrMapper, detr_augmentations

SMALL_RECIPE = detr_augmentations(range(96, 161, 32), 200, (80, 100), (70, 90))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Detectron2's
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_same_inputs_as_detectron2(load_demo, image_format: str):
    """Theirs is slower, and drops the fields of an image without objects at one end."""
    theirs = DatasetMapper(
        is_train=True,
        augmentations=SMALL_RECIPE,
        image_format=image_format,
        use_instance_mask=False,
    )
    ours = DetrMapper(SMALL_RECIPE, image_format)
    for number, record in enumerate(load_demo("train")):
        before = copy.deepcopy(record)
        np.random.seed(number)
        expected = theirs(copy.deepcopy(record))
        np.random.seed(number)
        mapped = ours(record)
        assert record == before
        assert set(mapped) == {"file_name", "image_id", "height", "width", "image", "instances"}
        for key in ("file_name", "image_id", "height", "width"):
            assert mapped[key] == expected[key]
        assert mapped["image"].dtype == torch.uint8
        torch.testing.assert_close(mapped["image"], expected["image"], rtol=0, atol=0)
        instances, reference = mapped["instances"], expected["instances"]
        assert instances.image_size == reference.image_size == mapped["image"].shape[1:]
        torch.testing.assert_close(
            instances.gt_boxes.tensor, reference.gt_boxes.tensor, rtol=0, atol=0
        )
        assert instances.gt_classes.tolist() == reference.gt_classes.tolist()


def test_for_testing_there_are_no_targets(load_demo):
    mapped = DetrMapper([ResizeShortestEdge(64, 100)], is_train=False)(load_demo("val")[0])
    assert set(mapped) == {"file_name", "image_id", "height", "width", "image"}
    assert mapped["image"].shape == (3, 64, 64)
    assert (mapped["height"], mapped["width"]) == (128, 128)


def test_boxes_are_clipped_and_what_is_cut_away_is_dropped(folder):
    record = folder.load()[1]
    # zebra: [1, 2, 11, 7]; the ant is a crowd.
    mapped = DetrMapper([CropTransform(6, 4, 10, 10)])(record)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[0, 0, 5, 3]]
    assert mapped["instances"].gt_classes.tolist() == [2]
    empty = DetrMapper([CropTransform(20, 12, 10, 8)])(record)["instances"]
    assert len(empty) == 0
    assert empty.gt_boxes.tensor.shape == (0, 4) and empty.gt_boxes.tensor.dtype == torch.float32
    assert empty.gt_classes.shape == (0,) and empty.gt_classes.dtype == torch.int64


def test_box_partly_outside_the_image(folder):
    (instances,) = [DetrMapper([])(r)["instances"] for r in folder.load() if r["image_id"] == 3]
    assert instances.gt_boxes.tensor.tolist() == [[25.5, 10, 30, 19.5]]


def test_records_may_mix_box_modes_and_lack_annotations(folder):
    record = folder.load()[1]
    record["annotations"] = [
        {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
        {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1},
    ]
    boxes = DetrMapper([])(record)["instances"].gt_boxes.tensor
    assert boxes.tolist() == [[1, 2, 3, 4], [1, 2, 4, 6]]
    del record["annotations"]
    assert len(DetrMapper([])(record)["instances"]) == 0


def save(record: dict, image: Image.Image, **options) -> None:
    image.save(record["file_name"], **options)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_images_of_other_modes_become_rgb(folder, mode: str):
    record = folder.load()[0]
    image = Image.open(record["file_name"]).convert(mode)
    save(record, image)
    mapped = DetrMapper([])(record)
    expected = np.array(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(mapped["image"].numpy(), expected)


def test_bgr_is_rgb_backwards_and_grey_has_one_channel(folder):
    record = folder.load()[0]
    rgb, bgr, grey = (DetrMapper([], f)(record)["image"] for f in ("RGB", "BGR", "L"))
    assert torch.equal(rgb.flip(0), bgr) and not torch.equal(rgb, bgr)
    assert grey.shape == (1, 20, 30)


def test_exif_rotation_is_applied(folder):
    record = folder.load()[0]
    upright = Image.fromarray(np.arange(20 * 30, dtype=np.uint8).reshape(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    save(record, upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    mapped = DetrMapper([], "L")(record)
    np.testing.assert_array_equal(mapped["image"][0].numpy(), np.array(upright))


def deep(record: dict) -> None:
    save(record, Image.fromarray(np.zeros((20, 30), np.uint16)))


BAD_FILES = {
    "missing": (lambda r: Path(r["file_name"]).unlink(), FileNotFoundError, "no image file"),
    "text": (lambda r: Path(r["file_name"]).write_text("hello"), ValueError, "can't be read"),
    "empty": (lambda r: Path(r["file_name"]).write_bytes(b""), ValueError, "can't be read"),
    "cut short": (
        lambda r: Path(r["file_name"]).write_bytes(Path(r["file_name"]).read_bytes()[:300]),
        ValueError,
        "can't be read",
    ),
    "other size": (
        lambda r: save(r, Image.new("RGB", (21, 30))),
        ValueError,
        "is 21 x 30 pixels, the annotation file says 30 x 20: correct width and height there.$",
    ),
    "turned": (
        lambda r: save(r, Image.new("RGB", (20, 30))),
        ValueError,
        "is 20 x 30 pixels, .* Probably its EXIF orientation",
    ),
    "16 bits": (deep, ValueError, "more than 8 bits per channel .*convert"),
}


@pytest.mark.parametrize(("damage", "kind", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(folder, damage, kind, message: str):
    record = folder.load()[0]
    damage(record)
    with pytest.raises(kind, match=message) as error:
        DetrMapper([])(record)
    assert record["file_name"] in str(error.value)
    assert f"image 3 of dataset '{folder.name}'" in str(error.value)


def test_wrong_image_format():
    with pytest.raises(ValueError, match=r"mapper\.image_format must be one of RGB, BGR, L"):
        DetrMapper([], image_format="rgb")
    with pytest.raises(ValueError, match=r"mapper\.augmentations must be a list; \[\] means none"):
        DetrMapper(None)


def test_augmentations_draw_from_numpys_generator_alone(load_demo):
    mapper = DetrMapper([RandomFlip(), RandomCrop("absolute_range", (60, 100))])
    record = load_demo("train")[1]
    shapes = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        shapes.append(mapper(record)["image"].shape)
    assert shapes[0] == shapes[1] != shapes[2]
