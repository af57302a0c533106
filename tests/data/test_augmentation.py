"""The recipes of DETR and of large-scale jitter: which sizes they draw, and how often."""

from itertools import pairwise

import numpy as np
import pytest
from detectron2.data.transforms import (
    AugInput,
    RandomCrop,
    RandomFlip,
    ResizeShortestEdge,
    ResizeTransform,
)
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
)
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.data import (
    RandomChoice,
    detr_augmentations,
    lsj_augmentations,
    micrograph_augmentations,
)
from ms_detr.data import ResizeShortestEdge as OurResizeShortestEdge

# The recipe at a tenth of its size, so that the test is quick.
SMALL = {
    "short_edges": range(48, 81, 4),
    "max_size": 133,
    "crop_short_edges": [40, 50, 60],
    "crop_range": [38, 60],
}


def flat(transforms) -> list:
    """The transforms of nested lists."""
    if hasattr(transforms, "transforms"):
        return [one for part in transforms.transforms for one in flat(part)]
    return [transforms]


def draw(image: np.ndarray, seed: int, augmentations) -> tuple[np.ndarray, list]:
    np.random.seed(seed)
    augmented = AugInput(image)
    transforms = augmented.apply_augmentations(augmentations)
    return augmented.image, flat(transforms)


@given(height=st.integers(30, 90), width=st.integers(30, 90), seed=st.integers(0, 2**32 - 1))
def test_sizes(height: int, width: int, seed: int):
    image, transforms = draw(
        np.zeros((height, width, 3), np.uint8), seed, detr_augmentations(**SMALL)
    )
    steps = [t for t in transforms if not isinstance(t, (HFlipTransform, NoOpTransform))]
    assert len(transforms) == 1 + len(steps) and len(steps) in (1, 3)
    assert max(image.shape) <= 133
    if max(image.shape) < 133:
        assert min(image.shape[:2]) in SMALL["short_edges"]
    assert isinstance(steps[-1], ResizeTransform)
    assert image.shape[:2] == (steps[-1].new_h, steps[-1].new_w)
    if len(steps) == 3:
        first, crop, last = steps
        assert min(first.new_h, first.new_w) in SMALL["crop_short_edges"]
        assert isinstance(crop, CropTransform)
        for side, whole in ((crop.h, first.new_h), (crop.w, first.new_w)):
            assert 38 <= side <= min(60, whole)
        assert 0 <= crop.x0 <= first.new_w - crop.w and 0 <= crop.y0 <= first.new_h - crop.h
        assert (last.h, last.w) == (crop.h, crop.w)


def test_flip_crop_and_sizes_are_drawn_evenly():
    image = np.zeros((60, 75, 3), np.uint8)
    drawn = [draw(image, seed, detr_augmentations(**SMALL)) for seed in range(600)]
    flips = np.mean([isinstance(transforms[0], HFlipTransform) for _, transforms in drawn])
    crops = np.mean([len(transforms) == 4 for _, transforms in drawn])
    assert 0.42 < flips < 0.58 and 0.42 < crops < 0.58
    edges = [min(i.shape[:2]) for i, transforms in drawn if len(transforms) == 2]
    assert set(edges) == set(SMALL["short_edges"])
    sides = [transforms[2].h for _, transforms in drawn if len(transforms) == 4]
    assert min(sides) == 38 and max(sides) == 60


def test_the_default_is_the_published_recipe():
    flip, choice = detr_augmentations()
    assert isinstance(flip, RandomFlip) and flip.prob == 0.5 and flip.horizontal
    plain, cropped = (chain.augs for chain in choice.chains)
    first, crop, last = cropped
    for resize in (*plain, last):
        assert isinstance(resize, ResizeShortestEdge)
        assert resize.short_edge_length[0] == 480 and resize.short_edge_length[-1] == 800
        assert {b - a for a, b in pairwise(resize.short_edge_length)} == {32}
        assert resize.max_size == 1333 and not resize.is_range
    assert first.short_edge_length == (400, 500, 600) and first.max_size > 10**6
    assert isinstance(crop, RandomCrop)
    assert (crop.crop_type, crop.crop_size) == ("absolute_range", (384, 600))


def test_micrographs_are_turned_and_resized_in_the_proportions_of_detr():
    """At 64 pixels all lengths are a tenth; which way is up is drawn, too."""
    image = np.zeros((64, 80, 3), np.uint8)
    image[:32, :, 0], image[:, :40, 1] = 255, 255
    drawn = [draw(image, seed, micrograph_augmentations(64)) for seed in range(400)]
    short = {min(x.shape[:2]) for x, steps in drawn if len(steps) == 3}
    assert short == {round(edge / 10) for edge in range(480, 801, 32)}
    cropped = [steps for _, steps in drawn if len(steps) == 5]
    assert {min(s[2].new_h, s[2].new_w) for s in cropped} == {40, 50, 60}
    assert min(s[3].h for s in cropped) >= 38 and max(s[3].h for s in cropped) <= 60
    whole = [x for x, steps in drawn if len(steps) == 3]
    down, mirrored = ([x[0, 0, channel] == 0 for x in whole] for channel in (0, 1))
    assert 0.4 < np.mean(down) < 0.6 and 0.4 < np.mean(mirrored) < 0.6


def test_random_choice_applies_one_whole_chain():
    flipped = HFlipTransform(2)
    choice = RandomChoice([[flipped, flipped], [flipped], []])
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    lengths = []
    for seed in range(30):
        result, transforms = draw(image, seed, [choice])
        lengths.append(len(transforms))
        mirrored = len(transforms) == 1
        np.testing.assert_array_equal(result, image[:, ::-1] if mirrored else image)
    assert set(lengths) == {0, 1, 2}
    assert "HFlip" in repr(choice)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomChoice([]), "at least one chain"),
        (lambda: detr_augmentations(short_edges=[]), "short_edges must be positive"),
        (lambda: detr_augmentations(crop_short_edges=[0]), "crop_short_edges must be positive"),
        (lambda: lsj_augmentations(0), "size must be positive"),
        (lambda: lsj_augmentations(64, 2.0, 0.1), "must be positive and ascend, got 2.0 and 0.1"),
        (lambda: lsj_augmentations(64, 0.0), "must be positive and ascend"),
    ],
)
def test_wrong_arguments(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@given(height=st.integers(20, 90), width=st.integers(20, 90), seed=st.integers(0, 2**32 - 1))
def test_large_scale_jitter(height: int, width: int, seed: int):
    image, transforms = draw(
        np.zeros((height, width, 3), np.uint8), seed, lsj_augmentations(64, 0.5, 2.0)
    )
    assert image.shape == (64, 64, 3)
    flip, resize, crop, pad = transforms
    assert isinstance(flip, (HFlipTransform, NoOpTransform))
    assert isinstance(resize, ResizeTransform)
    assert 32 <= max(resize.new_h, resize.new_w) <= 128
    assert abs(resize.new_h - height * resize.new_w / width) <= 0.5 * max(1, height / width) + 0.5
    assert isinstance(crop, CropTransform) and isinstance(pad, PadTransform)
    # Grey at the right and the bottom, and nowhere else.
    bottom, right = min(64, resize.new_h), min(64, resize.new_w)
    assert (image[:bottom, :right] == 0).all()
    assert (image[bottom:] == 128).all() and (image[:, right:] == 128).all()
    boxes = np.array([[0.0, 0, width, height]])
    for transform in transforms:
        boxes = transform.apply_box(boxes)
    box = boxes[0].clip(0, 64).round(3).tolist()
    assert box == [0, 0, right, bottom]


def test_scales_and_flips_of_large_scale_jitter_are_drawn_evenly():
    drawn = [
        draw(np.zeros((40, 50, 3), np.uint8), seed, lsj_augmentations(100))[1]
        for seed in range(600)
    ]
    scales = np.array([resize.new_w for _, resize, *_ in drawn]) / 100
    assert 0.1 <= scales.min() < 0.15 and 1.95 < scales.max() <= 2
    assert 1.0 < np.median(scales) < 1.1
    assert 0.42 < np.mean([isinstance(flip, HFlipTransform) for flip, *_ in drawn]) < 0.58


@pytest.mark.parametrize("shape", [(10, 3000), (3000, 10), (1, 3000), (3000, 1), (1, 1)])
def test_narrow_images_keep_a_pixel(shape: tuple[int, int]):
    """Detectron2 rounds their short side to none, and Pillow refuses."""
    image = np.zeros((*shape, 3), np.uint8)
    for seed in range(4):
        augmented, _ = draw(image, seed, lsj_augmentations(1024))
        assert augmented.shape == (1024, 1024, 3)
        augmented, _ = draw(image, seed, detr_augmentations(crop_short_edges=[1]))
        assert min(augmented.shape[:2]) >= 1 and max(augmented.shape[:2]) <= 1333
    augmented, (resize,) = draw(image, 0, [OurResizeShortestEdge(800, 1333)])
    assert min(augmented.shape[:2]) >= 1
    corners = resize.apply_coords(np.array([[0.0, 0.0], [shape[1], shape[0]]]))
    assert corners.tolist() == [[0, 0], list(augmented.shape[1::-1])]


@given(height=st.integers(10, 400), width=st.integers(10, 400))
def test_other_images_are_resized_as_by_detectron2(height: int, width: int):
    image = np.zeros((height, width, 3), np.uint8)
    ours, _ = draw(image, 0, [OurResizeShortestEdge(30, 70)])
    theirs, _ = draw(image, 0, [ResizeShortestEdge(30, 70)])
    assert ours.shape == theirs.shape
