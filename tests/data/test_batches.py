"""Test batches of images of like size: complete, small in padding, the same over any ranks."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data.transforms import (
    CropTransform,
    PadTransform,
    RandomCrop,
    RandomFlip,
    ResizeShortestEdge,
)
from detectron2.utils import comm
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ms_detr.data import DetrMapper, build_test_loader, detr_augmentations, group_by_size

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=40)


def padded(sizes, batch):
    """Pixels of a padded batch, by a loop."""
    height, width = (max(sizes[i][axis] for i in batch) for axis in (0, 1))
    return len(batch) * height * width


def padding(sizes, batches):
    """Share of all batches that is padding."""
    return 1 - sum(h * w for h, w in sizes) / sum(padded(sizes, batch) for batch in batches)


@given(sizes=SIZES, batch_size=st.integers(1, 9))
def test_every_image_is_in_one_batch(sizes, batch_size):
    batches = group_by_size(sizes, batch_size)
    assert sorted(joined(batches)) == list(range(len(sizes)))
    assert len(batches) == -(-len(sizes) // batch_size)
    assert all(len(batch) <= batch_size for batch in batches)
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    assert batches == sorted(sorted(batch) for batch in batches)


@given(count=st.integers(0, 40), batch_size=st.integers(1, 9))
def test_images_of_one_size_keep_their_order(count, batch_size):
    batches = group_by_size([(7, 5)] * count, batch_size)
    assert joined(batches) == list(range(count))
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)


@given(sizes=SIZES)
def test_alone_they_keep_the_datasets_order(sizes):
    assert group_by_size(sizes, 1) == [[i] for i in range(len(sizes))]


def test_two_kinds_of_images_do_not_meet():
    sizes = [(480, 640), (640, 480)] * 12
    assert padding(sizes, group_by_size(sizes, 8)) < 0.1 < 0.2 < padding(sizes, [range(24)])
    assert padding(sizes, group_by_size(sizes, 4)) == 0


@pytest.mark.parametrize("resized", [False, True])
def test_little_is_padding(resized):
    """Photographs of any size and aspect, or of any aspect with a short edge of 800."""
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(1000):
        aspect, short = rng.uniform(0.6, 1.7), 800 if resized else rng.integers(200, 1000)
        height, width = (short, short * aspect) if aspect > 1 else (short / aspect, short)
        sizes.append((round(height), round(width)))
    in_order = [range(first, first + 8) for first in range(0, 1000, 8)]
    assert padding(sizes, in_order) > 0.3
    assert padding(sizes, group_by_size(sizes, 8)) < (0.02 if resized else 0.1)


def test_refuses_no_image_a_batch():
    with pytest.raises(ValueError, match="batch_size=0"):
        group_by_size([(1, 1)], 0)


@pytest.mark.parametrize(
    "augmentations",
    [
        [],
        [ResizeShortestEdge(50, 90)],
        [ResizeShortestEdge((40, 60, 80), sample_style="choice"), RandomFlip(1.0)],
        [RandomFlip(1.0, horizontal=False, vertical=True), CropTransform(1, 2, 9, 8)],
        [PadTransform(0, 0, 5, 4), ResizeShortestEdge(33)],
        [RandomCrop("relative", (0.5, 0.7)), ResizeShortestEdge((30, 60), sample_style="range")],
        detr_augmentations((96, 128), 150, (80,), (60, 70)),
    ],
    ids=str,
)
def test_the_size_is_told_without_reading(augmentations, tmp_path):
    mapper = DetrMapper(augmentations)
    path = tmp_path / "image.png"
    for number, (height, width) in enumerate([(40, 70), (90, 31), (57, 57)]):
        record = {"file_name": str(path), "image_id": number, "height": height, "width": width}
        path.unlink(missing_ok=True)
        np.random.seed(number)
        told = mapper.size(record)
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
        np.random.seed(number)
        assert told == tuple(mapper(record)["image"].shape[1:])
        assert all(type(side) is int for side in told)


@pytest.fixture
def records(tmp_path):
    """23 images, of which every third is much larger and every second lies on its side."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(23):
        height, width = rng.integers(20, 30), rng.integers(40, 60)
        size = (2 * height, 2 * width) if number % 3 == 0 else (height, width)
        height, width = (int(side) for side in (size if number % 2 else size[::-1]))
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
        record = {"file_name": str(path), "image_id": number, "height": height, "width": width}
        made.append(record)
    return made


def ids(loader):
    return [[x["image_id"] for x in batch] for batch in loader]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


@pytest.mark.parametrize("resize", [[], [ResizeShortestEdge(24, 40)]])
def test_batches_do_not_depend_on_the_number_of_processes(records, resize, monkeypatch):
    mapper = DetrMapper(resize, is_train=False)
    alone = build_test_loader(records, mapper, 4, num_workers=0)
    assert ids(alone) == ids(alone) == group_by_size([mapper.size(r) for r in records], 4)
    assert sorted(joined(ids(alone))) == list(range(23))
    sizes = [tuple(x["image"].shape[1:]) for x in map(mapper, records)]
    assert padding(sizes, ids(alone)) < 0.7 * padding(sizes, np.array_split(np.arange(23), 6))
    for ranks in range(2, 9):
        monkeypatch.setattr(comm, "get_world_size", lambda ranks=ranks: ranks)
        parts = []
        for rank in range(ranks):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            loader = build_test_loader(records, mapper, 4, num_workers=0)
            parts.append(ids(loader))
            assert len(loader) == len(parts[-1]) <= -(-6 // ranks)
        assert joined(parts) == ids(alone)


def test_a_mapper_of_ones_own_is_taken_by_the_files_sizes(records):
    loader = build_test_loader(records, lambda record: record, 4, num_workers=0)
    assert ids(loader) == group_by_size([(r["height"], r["width"]) for r in records], 4)
    for record in records[:2]:
        del record["height"]
    assert joined(ids(build_test_loader(records, dict, 4, num_workers=0))) == list(range(23))


def test_sizes_that_are_drawn_leave_the_generators_alone(records):
    mapper = DetrMapper([ResizeShortestEdge((20, 90), sample_style="range")], is_train=False)
    states = []
    for _ in range(2):
        states.append((np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()))
        build_test_loader(records, mapper, 4, num_workers=0)
    assert states[0] == states[1]
