"""The mapper: the same inputs as Detectron2's, and files of every kind."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data.datasets import load_coco_json
from detectron2.data.transforms import (
    CropTransform,
    FixedSizeCrop,
    RandomCrop,
    RandomFlip,
    ResizeShortestEdge,
    VFlipTransform,
)
from detectron2.structures import BitMasks, BoxMode
from PIL import Image

from ms_detr.data import DetrMapper, ImageError, detr_augmentations, lsj_augmentations
from ms_detr.data import ResizeShortestEdge as OurResizeShortestEdge
from ms_detr.data.demo_shapes import run_lengths

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
        known = {"file_name", "image_id", "height", "width", "image", "instances"}
        assert set(mapped) == known | {"shown_size"}
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
    assert set(mapped) == {"file_name", "image_id", "height", "width", "image", "shown_size"}
    assert mapped["shown_size"] == (64, 64)
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
        "is 20 x 30 pixels, the annotation file says 30 x 20: width and height are swapped there",
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


def test_an_image_that_cannot_be_augmented(folder):
    record = folder.load()[0]
    save(record, Image.new("RGB", (3000, 1)))
    record |= {"height": 1, "width": 3000}
    problem = r"a\.png, 3000 x 1 pixels, can't be augmented: ValueError: height and width must be"
    # Not ImageError: a mistake in an augmentation is no bad image, to be passed over.
    with pytest.raises(ValueError, match=problem) as error:
        DetrMapper([ResizeShortestEdge(800, 1333)])(record)
    assert not isinstance(error.value, ImageError)
    assert DetrMapper([OurResizeShortestEdge(800, 1333)])(record)["image"].shape == (3, 1, 1333)


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


# ----------------------------------------------------------------------------------- with masks


@pytest.mark.filterwarnings("ignore::UserWarning")  # Detectron2's
def test_same_masks_as_detectron2(load_demo, demo_dataset: Path):
    recipe = [RandomFlip(), ResizeShortestEdge((96, 160), 200, "choice")]
    theirs = DatasetMapper(
        is_train=True,
        augmentations=recipe,
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    ours, plain = DetrMapper(recipe, masks=True), DetrMapper(recipe)
    records = load_coco_json(
        str(demo_dataset / "annotations" / "train.json"), str(demo_dataset / "train"), "tests_masks"
    )
    for number, (record, other) in enumerate(
        zip(load_demo("train", masks=True), records, strict=True)
    ):
        made = []
        for mapper, what in ((theirs, other), (ours, record), (plain, record)):
            np.random.seed(number)
            made.append(mapper(what)["instances"])
        reference, instances, boxes_only = made
        assert not boxes_only.has("gt_masks")
        masks = instances.gt_masks
        assert isinstance(masks, BitMasks) and masks.tensor.dtype == torch.bool
        assert masks.tensor.shape == (len(instances), *instances.image_size)
        for same in (reference, boxes_only):
            assert torch.equal(instances.gt_classes, same.gt_classes)
            torch.testing.assert_close(instances.gt_boxes.tensor, same.gt_boxes.tensor)
        if len(instances):
            assert torch.equal(masks.tensor, reference.gt_masks.tensor)


@pytest.mark.parametrize("recipe", [SMALL_RECIPE, lsj_augmentations(120)], ids=["detr", "lsj"])
def test_masks_follow_the_recipes(load_demo, recipe):
    mapper = DetrMapper(recipe, masks=True)
    lost = 0
    for number, record in enumerate(load_demo("train", masks=True) * 3):
        np.random.seed(number)
        instances = mapper(record)["instances"]
        np.random.seed(number)
        lost += len(DetrMapper(recipe)(record)["instances"]) - len(instances)
        assert instances.gt_masks.tensor.shape == (len(instances), *instances.image_size)
        tight = instances.gt_masks.get_bounding_boxes().tensor
        # The demo's boxes are those of the pixels; nearest neighbour and vertices move edges.
        outside = (tight - instances.gt_boxes.tensor) * torch.tensor([-1, -1, 1, 1])
        assert outside.max() <= 2.5 if len(instances) else True
        assert instances.gt_masks.nonempty().all()
    assert lost < 20


def square(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(segmentation, bbox=(2.0, 2.0, 20.0, 10.0), **more) -> dict:
    item = {"bbox": list(bbox), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    return item | {"segmentation": segmentation} | more


def test_objects_without_a_pixel_are_left_out_with_their_boxes(folder):
    record = folder.load()[0]
    record["annotations"] = [
        annotation(square(2, 2, 20, 10)),
        annotation(square(2, 2, 3, 3)),  # amodal: what can be seen is less than the box
        annotation(square(9, 9, 1, 1), category_id=2),  # one pixel
        annotation(square(8.1, 2, 0.1, 10)),  # too thin to cover a pixel's centre
        annotation(square(2, 2, 20, 10), iscrowd=1),
    ]
    whole = DetrMapper([], masks=True)(record)["instances"]
    assert whole.gt_masks.tensor.sum((1, 2)).tolist() == [200, 9, 1]
    assert whole.gt_boxes.tensor.tolist() == [[2, 2, 22, 12]] * 3
    assert whole.gt_classes.tolist() == [1, 1, 2]
    cut = DetrMapper([CropTransform(8, 4, 10, 10)], masks=True)(record)["instances"]
    assert cut.gt_masks.tensor.sum((1, 2)).tolist() == [80, 1]
    assert cut.gt_boxes.tensor.tolist() == [[0, 0, 10, 8]] * 2
    assert cut.gt_classes.tolist() == [1, 2]


@pytest.mark.parametrize("annotations", [[], [annotation(square(2, 2, 9, 9), iscrowd=1)]])
def test_images_without_objects_have_no_masks(folder, annotations):
    record = folder.load()[0] | {"annotations": annotations}
    masks = DetrMapper([ResizeShortestEdge(10)], masks=True)(record)["instances"].gt_masks
    assert masks.tensor.shape == (0, 10, 15) and masks.tensor.dtype == torch.bool


def test_custom_datasets_may_give_bitmaps_and_runs(folder):
    record = folder.load()[0]
    bitmap = np.zeros((20, 30), np.uint8)
    bitmap[2:12, 2:22] = 1
    plain = {"size": [20, 30], "counts": run_lengths(bitmap == 1)}
    forms = [bitmap, bitmap == 1, 255 * bitmap, plain, square(2, 2, 20, 10)]
    record["annotations"] = [annotation(form) for form in forms]
    for transforms in ([], [CropTransform(0, 1, 12, 15), VFlipTransform(15)]):
        masks = DetrMapper(transforms, masks=True)(record)["instances"].gt_masks.tensor
        assert len(masks) == 5 and masks[0].any()
        assert (masks == masks[0]).all()


def test_boxes_end_where_the_image_ends_also_beside_padding(folder):
    record = folder.load()[0]
    record["annotations"] = [annotation(square(25, 10, 9, 9), bbox=(25, 10, 9, 9))]
    padded = DetrMapper([FixedSizeCrop((40, 40))], masks=True)(record)["instances"]
    assert padded.gt_boxes.tensor.tolist() == [[25, 10, 30, 19]]
    assert padded.gt_masks.get_bounding_boxes().tensor.tolist() == [[25, 10, 30, 19]]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, r"has no segmentation \(coco_dataset keeps those of a COCO file with masks="),
        ([[1, 2, 3]], "not an even count"),
        (np.zeros((30, 20), bool), r"bitmap of bool \(30, 20\)"),
    ],
)
def test_wrong_segmentations(folder, segmentation, message):
    record = folder.load()[0]
    record["annotations"] = [annotation(segmentation)]
    assert len(DetrMapper([])(record)["instances"]) == 1
    with pytest.raises(ValueError, match=message) as error:
        DetrMapper([], masks=True)(record)
    whose = f"image 3 of dataset '{folder.name}': an object of class 1 with bbox [2.0, 2.0, 20.0"
    assert str(error.value).startswith(whose)
