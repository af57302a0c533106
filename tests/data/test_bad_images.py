"""Training images whose pixels turn out bad when their turn comes."""

import re
from itertools import chain, islice

import numpy as np
import pytest
import torch
from detectron2.data.transforms import RandomCrop
from PIL import Image

from ms_detr.config import load
from ms_detr.data import DetrMapper, ImageError, build_train_loader
from ms_detr.data.bad_images import REPLACES

COUNT = 12
LIMIT = "dataloader.train.max_bad_images"


@pytest.fixture
def broken(folder):
    """A dataset of 12 images; the second, the third and the last one have damaged pixels."""
    rng = np.random.default_rng(0)
    folder.content["annotations"] = []
    folder.content["images"] = []
    for number in range(COUNT):
        path = folder.images / f"{number}.webp"
        image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        image.save(path, lossless=True)
        entry = {"id": number, "file_name": path.name, "height": 20, "width": 30}
        folder.content["images"].append(entry)
        box = {"id": number, "image_id": number, "category_id": 4, "bbox": [1, 1, 9, 9]}
        folder.content["annotations"].append(box)
    records = folder.load()
    for number in (1, 2, COUNT - 1):
        path = folder.images / f"{number}.webp"
        content = bytearray(path.read_bytes())
        content[60:] = bytes(len(content) - 60)
        path.write_bytes(content)
    return records


MAPPER = DetrMapper([RandomCrop("absolute_range", (5, 19))])


def loader(records, **options):
    options = {"num_workers": 0, "seed": 3, "max_bad_images": 3} | options
    return build_train_loader(records, MAPPER, 3, **options)


def take(batches, count: int = 8) -> list[dict]:
    return list(chain.from_iterable(islice(batches, count)))


def test_the_damage_is_of_pixels_alone(broken, folder):
    """Which the look at headers doesn't see."""
    assert len(folder.load()) == COUNT
    with pytest.raises(ImageError, match=r"1\.webp can't be read as an image"):
        DetrMapper([])(broken[1])


def test_by_default_the_first_one_ends_the_run(broken):
    for workers in (0, 1):
        with pytest.raises(ImageError) as error:
            take(loader(broken, max_bad_images=0, num_workers=workers))
        message = str(error.value)
        assert re.search(r"image (1|2|11) of dataset '.*/(1|2|11)\.webp can't be read", message)
        assert f"({LIMIT}, now 0, is how many bad images are passed over)" in message


def test_others_take_their_places(broken, caplog):
    """The next good one of the dataset does; all others stay where they were."""
    whole = build_train_loader(
        broken, lambda record: {"image_id": record["image_id"]}, 3, num_workers=0, seed=3
    )
    expected = [x["image_id"] for x in take(whole)]
    assert {1, 2, 11} <= set(expected)
    places = {1: 3, 2: 3, 11: 0}
    batches = loader(broken)
    found = take(batches)
    assert [x["image_id"] for x in found] == [places.get(i, i) for i in expected]
    assert not any(REPLACES in x for x in found)
    assert set(batches.bad_images.problems) == {broken[i]["file_name"] for i in (1, 2, 11)}
    lines = [r.getMessage() for r in caplog.records if "bad image" in r.getMessage()]
    assert len(lines) == 3  # each of them once, though its turn comes in every epoch
    assert lines[2].startswith("bad image 3 of at most 3: image ")


def test_order_and_augmentation_depend_on_the_seed_alone(broken):
    alone = take(loader(broken))
    others = [take(loader(broken, num_workers=2)), take(loader(broken, max_bad_images=9))]
    later = loader(broken)
    later.start_at(3)
    resumed = take(later, 5)
    for one, other in [*zip(alone, others[0], strict=True), *zip(alone, others[1], strict=True),
                       *zip(alone[9:], resumed, strict=True)]:  # fmt: skip
        assert one["image_id"] == other["image_id"]
        assert torch.equal(one["image"], other["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_the_limit_ends_the_run(broken, workers):
    message = f"3 images are bad, {LIMIT} allows 2; the last: image .*webp can't be read"
    with pytest.raises(ImageError, match=message):
        take(loader(broken, max_bad_images=2, num_workers=workers))


def test_a_dataset_of_bad_images_ends_the_run(broken):
    bad = [broken[1], broken[2], broken[11]]
    with pytest.raises(ImageError, match=r"can't be read .*now 99"):
        take(loader(bad, max_bad_images=99))


def test_wrong_limits(broken):
    for limit in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match=rf"{LIMIT} must be a whole number of at least 0"):
            loader(broken, max_bad_images=limit)


def test_the_key():
    assert load("demo/ms_detr.py").dataloader.train.max_bad_images == 0
