"""Batches: the same whatever the workers, the processes and the point of a resume."""

import logging
import multiprocessing
import random
import re
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data.transforms import RandomFlip, RandomRotation, ResizeShortestEdge
from detectron2.utils import comm
from omegaconf import OmegaConf

from ms_detr.data import (
    DetrMapper,
    RandomChoice,
    build_test_loader,
    build_train_loader,
    coco_dataset,
    detr_augmentations,
)
from tests.processes import gloo

MAPPER = DetrMapper(detr_augmentations(range(96, 161, 32), 200, (80, 100), (70, 90)))


def take(loader, count: int) -> list[list[dict]]:
    return list(islice(loader, count))


def joined(batches) -> list[dict]:
    return list(chain.from_iterable(batches))


def assert_same(batches: list[list[dict]], others: list[list[dict]]) -> None:
    assert [len(batch) for batch in batches] == [len(batch) for batch in others]
    for one, other in zip(joined(batches), joined(others), strict=True):
        assert one["image_id"] == other["image_id"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
        assert torch.equal(one["instances"].gt_classes, other["instances"].gt_classes)


@pytest.fixture
def train(load_demo):
    """Build a training loader over the 24 images of the demo dataset."""
    records = load_demo("train")

    def build(mapper=MAPPER, total_batch_size: int = 5, **keywords):
        keywords = {"num_workers": 0, "seed": 3} | keywords
        return build_train_loader(records, mapper, total_batch_size, **keywords)

    return build


def test_batches_do_not_depend_on_workers(train):
    """Nine batches are more than two epochs of four."""
    assert_same(take(train(), 9), take(train(num_workers=2), 9))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_goes_on(train, workers: int):
    unbroken = take(train(), 9)
    resumed = train(num_workers=workers)
    resumed.start_at(6)
    assert_same(unbroken[6:], take(resumed, 3))


def test_another_seed_gives_other_images_and_other_draws(train):
    first, other = (joined(take(train(draws, seed=seed), 4)) for seed in (3, 4))
    assert [r["image_id"] for r in first] != [r["image_id"] for r in other]
    assert all(a["drawn"] != b["drawn"] for a, b in zip(first, other, strict=True))


def test_sizes_that_the_engine_asks_for(train):
    loader = train()
    assert (loader.dataset_size, loader.total_batch_size) == (24, 5)


def test_global_batch_does_not_depend_on_the_number_of_processes(train, monkeypatch):
    alone = take(train(total_batch_size=6), 5)
    parts = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(take(train(total_batch_size=6), 5))
    assert_same(alone, [joined(batches) for batches in zip(*parts, strict=True)])


def test_an_image_is_augmented_anew_in_every_epoch(train):
    images = joined(take(train(total_batch_size=1), 5 * 24))
    shapes = {(r["image"].shape, r["image"].sum().item()) for r in images if r["image_id"] == 1}
    assert len([r for r in images if r["image_id"] == 1]) == 5
    assert len(shapes) == 5


def draws(record: dict) -> dict:
    """A mapper that draws from every generator that an augmentation could use."""
    numbers = (np.random.rand(), random.random(), torch.rand(()).item())
    return {"image_id": record["image_id"], "drawn": numbers}


def test_every_generator_is_seeded(train):
    first, again, workers = (
        [r["drawn"] for r in joined(take(train(draws, num_workers=n), 12))] for n in (0, 0, 2)
    )
    assert first == again == workers
    for numbers in zip(*first, strict=True):
        assert len(set(numbers)) == len(numbers) == 60


def test_global_generators_are_left_as_they_were(train):
    def state() -> tuple:
        kind, key, *rest = np.random.get_state()
        return kind, key.tobytes(), *rest, random.getstate(), torch.get_rng_state().tolist()

    def broken(record: dict) -> dict:
        draws(record)
        raise RuntimeError("broken")

    before = state()
    take(train(draws), 2)
    assert state() == before
    take(train(draws, num_workers=1), 2)
    assert state() == before
    list(build_test_loader([{}, {}], lambda record: record, num_workers=0))
    assert state() == before
    with pytest.raises(RuntimeError, match="broken"):
        take(train(broken), 1)
    assert state() == before
    np.random.seed(0)
    expected = np.random.rand(2)
    np.random.seed(0)
    first = np.random.rand()
    take(train(draws), 1)
    assert [first, np.random.rand()] == expected.tolist()


def test_a_mapper_may_change_its_record(train):
    def greedy(record: dict) -> dict:
        boxes = len(record["annotations"])
        record["annotations"].clear()
        return {"image_id": record["image_id"], "boxes": boxes}

    epochs = joined(take(train(greedy, total_batch_size=24), 2))
    counts = [{r["image_id"]: r["boxes"] for r in part} for part in (epochs[:24], epochs[24:])]
    assert counts[0] == counts[1] and max(counts[0].values()) > 8


def test_an_error_in_a_worker_names_the_file(folder):
    records = folder.load()
    (folder.images / "a.png").unlink()
    loader = build_train_loader(records, DetrMapper([]), 2, num_workers=1)
    with pytest.raises(FileNotFoundError, match=r"image 3 of dataset .*a\.png"):
        next(iter(loader))


def test_nothing_to_learn(folder, caplog):
    """An error for training; what is only evaluated can still be predicted on."""
    caplog.set_level(logging.WARNING)
    build_train_loader(folder.load(), MAPPER, 2, num_workers=0)
    build_test_loader(folder.load(), MAPPER, 2, num_workers=0)
    assert not [r for r in caplog.records if r.levelno > logging.INFO]  # a run tells more
    for annotation in folder.content["annotations"]:
        annotation["iscrowd"] = 1
    message = rf"all 3 annotations of dataset '{folder.name}' are crowds"
    with pytest.raises(ValueError, match=rf"Nothing can be learnt: {message}"):
        build_train_loader(folder.load(), MAPPER, 2, num_workers=0)
    build_test_loader(folder.load(), MAPPER, 2, num_workers=0)
    assert re.search(f"AP will be nan: {message}", caplog.text)
    folder.content["annotations"] = []
    with pytest.raises(ValueError, match=f"no image of dataset '{folder.name}' has an annotation"):
        build_train_loader(folder.load(), MAPPER, 2, num_workers=0)
    custom = [{"file_name": "a.png"}, {"file_name": "b.png"}]  # its mapper may know its objects
    build_train_loader(custom, MAPPER, 2, num_workers=0)


def test_wrong_batch_sizes(train, monkeypatch):
    with pytest.raises(ValueError, match=r"24 images.*dataloader\.train\.total_batch_size"):
        train(total_batch_size=25)
    with pytest.raises(ValueError, match=r"dataloader\.test\.batch_size"):
        build_test_loader([{}], MAPPER, batch_size=0)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"total_batch_size=5 .*multiple of 2"):
        train()


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 2)])
def test_test_loader_passes_once_in_order(load_demo, batch_size: int, workers: int):
    mapper = DetrMapper([], is_train=False)
    loader = build_test_loader(load_demo("val"), mapper, batch_size, workers)
    for _ in range(2):
        batches = list(loader)
        assert {len(batch) for batch in batches[:-1]} == {batch_size}
        assert [r["image_id"] for batch in batches for r in batch] == list(range(1, 13))
    assert len(loader) == len(batches) == -(-12 // batch_size)


def test_built_from_a_config(demo_dataset: Path):
    """As configs do it, through YAML as the engine saves it: nested lists arrive as ListConfig."""
    config = OmegaConf.create({"seed": 3}, flags={"allow_objects": True})
    config.loader = L(build_train_loader)(
        dataset=L(coco_dataset)(
            name="tests_demo_train",
            images=str(demo_dataset / "train"),
            annotations=str(demo_dataset / "annotations" / "train.json"),
        ),
        mapper=L(DetrMapper)(
            augmentations=[
                L(RandomFlip)(),
                L(RandomChoice)(
                    chains=[
                        [],
                        [
                            L(RandomRotation)(angle=[-9, 9]),
                            L(ResizeShortestEdge)(
                                short_edge_length=[60, 80], sample_style="choice"
                            ),
                        ],
                    ]
                ),
            ],
        ),
        total_batch_size=6,
        num_workers=0,
        seed="${seed}",
    )
    sides = {r["image"].shape[1] for r in joined(take(instantiate(config.loader), 4))}
    assert sides == {60, 80, 128}
    config.loader.mapper.augmentations = L(detr_augmentations)(short_edges=[96, 128], max_size=150)
    config.loader.mapper.augmentations.crop_short_edges = [80]
    config.loader.mapper.augmentations.crop_range = [60, 70]
    sides = {min(r["image"].shape[1:]) for r in joined(take(instantiate(config.loader), 4))}
    assert sides <= {96, 128} | set(range(96, 129)) and {96, 128} <= sides


def work(rank: int, meeting: Path, records: list[dict], results: multiprocessing.Queue) -> None:
    """What one of two processes loads: for training, and for testing."""
    with gloo(meeting).joined(rank, rank):
        train = build_train_loader(records, DetrMapper([]), 4, num_workers=1, seed=3)
        test = build_test_loader(records, DetrMapper([], is_train=False), 5, num_workers=1)
        batches = [[r["image_id"] for r in batch] for batch in take(train, 7)]
        results.put((rank, batches, [r["image_id"] for batch in test for r in batch]))


def test_two_real_processes_share_the_work(load_demo, tmp_path: Path):
    records = load_demo("train")[:23]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=work, args=(rank, tmp_path / "meeting", records, results))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    (_, first, first_test), (_, second, second_test) = sorted(
        results.get(timeout=60) for _ in processes
    )
    for process in processes:
        process.join(timeout=60)
    loader = build_train_loader(records, DetrMapper([]), 4, num_workers=0, seed=3)
    expected = [[r["image_id"] for r in batch] for batch in take(loader, 7)]
    assert [a + b for a, b in zip(first, second, strict=True)] == expected
    # Five batches in the dataset's order, all of its images having one size: three and two.
    assert (first_test, second_test) == (list(range(1, 16)), list(range(16, 24)))
