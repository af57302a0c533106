"""Copy-paste: pixels, masks and boxes against loops, and what is drawn."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data.transforms import RandomFlip
from detectron2.structures import BitMasks, Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.data import CopyPaste, DetrMapper, build_train_loader
from ms_detr.data.bad_images import REPLACES
from tests.data.test_loader import assert_same, joined, take

HEIGHT, WIDTH = 14, 17


def image_of(rng: np.random.Generator, count: int, first: int = 0) -> dict:
    """A model input of noise with `count` objects of classes from `first` on, with ragged masks."""
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask in masks:
        y, x = rng.integers(0, HEIGHT - 2), rng.integers(0, WIDTH - 2)
        height, width = rng.integers(1, 10, 2)
        window = mask[y : y + height, x : x + width]
        window[:] = rng.random(window.shape) < 0.8
        window[0, 0] = True
    instances = Instances((HEIGHT, WIDTH))
    # Boxes of whole objects, say, which are larger than what can be seen of them.
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0, WIDTH, HEIGHT]]).repeat(count, 1))
    instances.gt_classes = torch.arange(first, first + count)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    image = rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    return {"image": torch.from_numpy(image), "instances": instances, "image_id": first}


def box_of(mask: list[list[bool]]) -> list[int]:
    """(x1, y1, x2, y2) around the pixels of a mask."""
    rows = [y for y in range(HEIGHT) for x in range(WIDTH) if mask[y][x]]
    columns = [x for y in range(HEIGHT) for x in range(WIDTH) if mask[y][x]]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def slow_paste(x: dict, other: dict, chosen: list[int], max_shift: float, min_pixels: int):
    """The image, and (class, box, mask) of every object, pixel by pixel."""
    image, source = x["image"].tolist(), other["image"].tolist()
    below, above = (y["instances"].gt_masks.tensor.tolist() for y in (x, other))
    cut, objects = copy.deepcopy(below), []
    for row in range(HEIGHT):
        for column in range(WIDTH):
            if any(above[number][row][column] for number in chosen):
                for channel in range(3):
                    image[channel][row][column] = source[channel][row][column]
                for mask in cut:
                    mask[row][column] = False
    for label, before, after in zip(x["instances"].gt_classes.tolist(), below, cut, strict=True):
        pixels = sum(map(sum, after))
        if pixels == 0:
            continue
        sides = zip(box_of(before), box_of(after), strict=True)
        if max(abs(a - b) for a, b in sides) <= max_shift or pixels > min_pixels:
            objects.append((label, box_of(after), after))
    for number in chosen:
        label = other["instances"].gt_classes[number].item()
        objects.append((label, box_of(above[number]), above[number]))
    return image, objects


@given(
    counts=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    limit=st.integers(0, 7),
    rule=st.tuples(st.integers(0, 4), st.integers(0, 20)),
    seed=st.integers(0, 2**32 - 1),
)
def test_against_loops(counts, limit, rule, seed: int):
    rng = np.random.default_rng(seed)
    x, other = image_of(rng, counts[0]), image_of(rng, counts[1], first=100)
    before = copy.deepcopy((x, other))
    np.random.seed(seed)
    mixed = CopyPaste(limit, *rule)(x, other)
    labels = mixed["instances"].gt_classes.tolist()
    chosen = [label - 100 for label in labels if label >= 100]
    assert len(set(chosen)) == len(chosen) <= min(counts[1], limit)
    image, objects = slow_paste(x, other, chosen, *rule)
    assert mixed["image"].dtype == torch.uint8 and mixed["image"].tolist() == image
    assert labels == [label for label, _, _ in objects]
    instances = mixed["instances"]
    assert instances.image_size == (HEIGHT, WIDTH) and mixed["image_id"] == 0
    assert instances.gt_boxes.tensor.dtype == torch.float32
    assert instances.gt_boxes.tensor.tolist() == [box for _, box, _ in objects]
    assert instances.gt_masks.tensor.dtype == torch.bool
    assert instances.gt_masks.tensor.tolist() == [mask for _, _, mask in objects]
    for one, same in zip((x, other), before, strict=True):
        assert torch.equal(one["image"], same["image"])
        assert torch.equal(one["instances"].gt_masks.tensor, same["instances"].gt_masks.tensor)
        assert torch.equal(one["instances"].gt_boxes.tensor, same["instances"].gt_boxes.tensor)
    np.random.seed(seed)
    plain = CopyPaste(limit, *rule, masks=False)(x, other)["instances"]
    assert not plain.has("gt_masks")
    assert torch.equal(plain.gt_boxes.tensor, instances.gt_boxes.tensor)


def strip(left: int, right: int, label: int, height: int = HEIGHT) -> dict:
    """A model input with one object, as high as the image, between two columns."""
    x = image_of(np.random.default_rng(label), 1, label)
    x["instances"].gt_masks.tensor[:] = False
    x["instances"].gt_masks.tensor[:, :height, left:right] = True
    return x


@pytest.mark.parametrize(
    ("covered", "rule", "kept"),
    [
        (3, (3, 1000), True),  # its box moves by 3 pixels
        (4, (3, 1000), False),
        (4, (3, 6 * HEIGHT), False),  # 6 columns are left
        (4, (3, 6 * HEIGHT - 1), True),
        (10, (1000, 0), False),  # nothing is left of it
    ],
)
def test_what_is_hidden_too_much(covered: int, rule: tuple[int, int], kept: bool):
    x, other = strip(0, 10, 1), strip(0, covered, 2)
    seen = set()
    for seed in range(10):
        np.random.seed(seed)
        seen.add(tuple(CopyPaste(1, *rule)(x, other)["instances"].gt_classes.tolist()))
    assert seen == {(1,), (1, 2) if kept else (2,)}


@pytest.mark.parametrize(("count", "limit"), [(4, 100), (5, 2), (3, 0), (0, 100)])
def test_how_many_and_which_are_drawn_evenly(count: int, limit: int):
    rng = np.random.default_rng(0)
    x, other = image_of(rng, 1), image_of(rng, count, first=100)
    numbers, which = Counter(), Counter()
    paste, draws = CopyPaste(limit), 1500
    np.random.seed(0)
    for _ in range(draws):
        labels = [k for k in paste(x, other)["instances"].gt_classes.tolist() if k >= 100]
        numbers[len(labels)] += 1
        which.update(labels)
    most = min(count, limit)
    assert sorted(numbers) == list(range(most + 1))
    for times in numbers.values():
        assert abs(times / draws - 1 / (most + 1)) < 0.05
    assert len(which) == (count if most else 0)
    for times in which.values():
        assert abs(times / draws - most / 2 / count) < 0.05


def test_the_published_limits():
    paste = CopyPaste()
    assert (paste.max_objects, paste.max_shift, paste.min_pixels) == (100, 10, 300)
    with pytest.raises(ValueError, match=r"copy_paste\.max_objects must be at least 0, got -1"):
        CopyPaste(-1)
    with pytest.raises(ValueError, match=r"copy_paste\.max_shift must be at least 0"):
        CopyPaste(max_shift=float("nan"))


def test_masks_are_needed_and_one_size():
    rng = np.random.default_rng(0)
    x, bare, small = (image_of(rng, 2) for _ in range(3))
    bare["instances"].remove("gt_masks")
    for pair in ((x, bare), (bare, x), ({"image": x["image"]}, x)):
        with pytest.raises(ValueError, match=r"copy_paste needs masks: set dataloader\.train\.map"):
            CopyPaste()(*pair)
    small["image"] = small["image"][:, :9]
    with pytest.raises(ValueError, match="of one size, these are 17 x 14 and 17 x 9: take augment"):
        CopyPaste()(x, small)


# ------------------------------------------------------------------------------- in the loader

MAPPER = DetrMapper([RandomFlip()], masks=True)


@pytest.fixture
def train(load_demo):
    records = load_demo("train", masks=True)

    def build(paste=CopyPaste(min_pixels=50), **options):  # noqa: B008
        options = {"num_workers": 0, "seed": 3} | options
        return build_train_loader(records, MAPPER, 5, copy_paste=paste, **options)

    return build


def test_batches_depend_on_seed_and_iteration_alone(train):
    batches = take(train(), 8)
    assert_same(batches, take(train(), 8))
    assert_same(batches, take(train(num_workers=2), 8))
    resumed = train()
    resumed.start_at(5)
    assert_same(batches[5:], take(resumed, 3))
    others = joined(take(train(seed=4), 2))
    assert any(
        not torch.equal(one["image"], other["image"])
        for one, other in zip(joined(batches), others, strict=False)
    )


def test_images_are_as_without_but_for_what_is_pasted(train):
    """The others are drawn from the whole dataset; draws of an image's own are as they were."""
    sources: list[int] = []

    class Watching(CopyPaste):
        def __call__(self, x, other):
            mixed = super().__call__(x, other)
            sources.append(other["image_id"])
            changed = (mixed["image"] != x["image"]).any(0)
            assert not (changed & ~mixed["instances"].gt_masks.tensor.any(0)).any()
            return mixed | {"before": x["image"], "changed": bool(changed.any())}

    plain, mixed = joined(take(train(None), 40)), joined(take(train(Watching()), 40))
    for one, other in zip(plain, mixed, strict=True):
        assert one["image_id"] == other["image_id"]
        assert torch.equal(one["image"], other["before"])
    assert len(sources) == 200 and len(set(sources)) == 24
    assert 60 < sum(x["changed"] for x in mixed) < 180


def test_crowds_are_never_pasted(load_demo):
    records = copy.deepcopy(load_demo("train", masks=True))
    for record in records[1:]:
        for item in record["annotations"]:
            item["iscrowd"] = 1
    own = len(records[0]["annotations"])
    loader = build_train_loader(
        records[:3], MAPPER, 3, num_workers=0, copy_paste=CopyPaste(min_pixels=0)
    )
    for x in joined(take(loader, 20)):
        assert len(x["instances"]) <= own * (2 if x["image_id"] == records[0]["image_id"] else 1)


def test_bad_images_of_both_are_told(load_demo, tmp_path):
    records = copy.deepcopy(load_demo("train", masks=True))[:4]
    for number in (1, 2):
        records[number]["file_name"] = str(tmp_path / f"{number}.png")
    loader = build_train_loader(
        records, MAPPER, 2, num_workers=0, max_bad_images=2, copy_paste=CopyPaste()
    )
    told = [loader.dataset[0, position, position % 4].get(REPLACES, {}) for position in range(24)]
    assert {tuple(sorted(problems)) for problems in told} > {()}
    assert max(map(len, told)) == 2
    good = [told[position] for position in range(0, 24, 4)]  # the image itself is there
    assert any(good)
    assert all(REPLACES not in x for x in joined(take(loader, 6)))
    assert set(loader.bad_images.problems) == {records[n]["file_name"] for n in (1, 2)}
