"""The demo dataset: frozen, repeatable, consistent with itself and with COCO's tools."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ms_detr.data import DemoSpec, demo, generate_demo
from ms_detr.data.demo_scene import draw_image
from ms_detr.errors import DataError

SPEC = DemoSpec()
SPLITS = ("train", "val")


def digest(index: int, split: str = "val", seed: int = 3) -> str:
    image, objects = draw_image(SPEC, seed, split, index)
    content = [image.tobytes(), *(item.mask.tobytes() for item in objects)]
    return hashlib.sha256(b"".join(content)).hexdigest()


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scenes() -> list:
    """The objects of many images."""
    return [draw_image(SPEC, 1, "train", index)[1] for index in range(300)]


# (class, x, y, width, height) of image 2 of seed 0; of all six images, hashed; their mean values.
FROZEN_BOXES = [(0, 74, 66, 22, 23), (0, 41, 44, 43, 37)]
FROZEN_FINGERPRINT = "86dd97e8ef4ed8c3"
FROZEN_MEANS = [116.931, 143.806, 122.787, 123.380, 127.891, 118.026]


def test_definition_is_frozen():
    """Figures on the demo dataset compare only while this holds: see DemoSpec."""
    drawn = [draw_image(SPEC, 0, "val", index) for index in range(6)]
    boxes = [[(o.category, *demo.extent(o.mask)) for o in objects] for _, objects in drawn]
    assert boxes[2] == FROZEN_BOXES
    fingerprint = hashlib.sha256(json.dumps(boxes).encode()).hexdigest()[:16]
    assert fingerprint == FROZEN_FINGERPRINT
    # Colours to within rounding, which another processor may do differently.
    assert [image.mean() for image, _ in drawn] == pytest.approx(FROZEN_MEANS, abs=0.01)


def test_an_image_depends_on_spec_seed_split_and_index_alone():
    here = [digest(index) for index in (4, 0, 2)]
    with multiprocessing.Pool(2) as pool:
        there = pool.map(digest, [2, 0, 4])
    assert here == there[::-1]
    others = [digest(4, split="train"), digest(4, seed=4), digest(5)]
    assert len({here[0], *others}) == 4


def test_shares_of_the_kinds_of_images(scenes):
    crowds = np.array([any(item.crowd for item in objects) for objects in scenes])
    counts = np.array([sum(not item.crowd for item in objects) for objects in scenes])
    assert 0.02 < np.mean(counts == 0) < 0.09
    assert 0.06 < np.mean(counts >= 9) < 0.15
    assert 0.003 < crowds.mean() < 0.05
    assert counts.max() <= 12
    classes = np.bincount([item.category for objects in scenes for item in objects])
    assert len(classes) == 6 and classes.min() > 0.7 * classes.mean()


def test_every_object_keeps_half_of_its_pixels(scenes):
    least = 1.0
    for objects in scenes:
        covered = np.zeros((SPEC.image_size,) * 2, bool)
        for item in reversed(objects):
            least = min(least, (item.mask & ~covered).sum() / item.mask.sum())
            covered |= item.mask
    assert 0.5 <= least < 0.6  # and the bound is used


def test_sizes_of_objects(scenes):
    sides = [max(demo.extent(o.mask)[2:]) for objects in scenes for o in objects if not o.crowd]
    assert min(sides) >= 7
    assert max(sides) <= 80 * np.sqrt(1 + 1) + 1  # the diagonal of the largest rectangle
    small = np.mean(np.array(sides) < 32)
    assert 0.4 < small < 0.7


@pytest.mark.parametrize("split", SPLITS)
def test_annotations_agree_with_the_pixels_that_coco_sees(demo_dataset: Path, split: str):
    coco = COCO(demo_dataset / "annotations" / f"{split}.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SPEC.classes)
    assert len(coco.anns) > len(coco.imgs)
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation).astype(bool)
        assert mask.shape == (image["height"], image["width"]) == (128, 128)
        assert mask.sum() == annotation["area"] > 0
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert (x, x + width) == (columns.min(), columns.max() + 1)
        assert (y, y + height) == (rows.min(), rows.max() + 1)
        assert isinstance(annotation["segmentation"], dict) == bool(annotation["iscrowd"])
    crowds = [a for a in coco.anns.values() if a["iscrowd"]]
    assert crowds
    with_objects = {a["image_id"] for a in coco.anns.values()}
    assert set(coco.imgs) > with_objects


@pytest.mark.parametrize("split", SPLITS)
def test_files_hold_the_drawn_images(demo_dataset: Path, split: str):
    for index in (0, 7):
        with Image.open(demo_dataset / split / f"{index + 1:06d}.png") as file:
            assert file.mode == "RGB"
            stored = np.array(file)
        np.testing.assert_array_equal(stored, draw_image(SPEC, 8, split, index)[0])


def average_precision(truth: COCO, detections: list[dict]) -> float:
    evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_the_truth_scores_full_marks_and_crowds_forgive(demo_dataset: Path):
    truth = COCO(demo_dataset / "annotations" / "train.json")
    keys = ("image_id", "category_id", "bbox")
    perfect = [
        {**{key: a[key] for key in keys}, "score": 0.5}
        for a in truth.anns.values()
        if not a["iscrowd"]
    ]
    assert average_precision(truth, perfect) == pytest.approx(1.0)
    crowd = next(a for a in truth.anns.values() if a["iscrowd"])
    x, y, width, height = crowd["bbox"]
    guess = {key: crowd[key] for key in keys} | {"score": 0.9}
    inside = [{**guess, "bbox": [x + i, y + height / 2, 8, 8]} for i in range(0, int(width) - 8, 4)]
    assert average_precision(truth, perfect + inside) == pytest.approx(1.0)
    elsewhere = [{**guess, "image_id": image} for image in truth.imgs if image != guess["image_id"]]
    assert average_precision(truth, perfect + elsewhere) < 0.95


def generate(root: Path, **changes) -> Path:
    arguments = {"train_images": 4, "val_images": 2, "seed": 5, "progress": False} | changes
    return generate_demo(root, **arguments)


def test_a_finished_dataset_is_kept(tmp_path: Path, monkeypatch):
    before = files_of(generate(tmp_path / "new" / "demo"))
    assert len(before) == 4 + 2 + 2
    monkeypatch.setattr(demo, "draw_image", lambda *_: pytest.fail("drawn again"))
    assert files_of(generate(tmp_path / "new" / "demo")) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "train" / "000002.png").unlink(),
        lambda root: (root / "annotations" / "val.json").unlink(),
        lambda root: generate(root, seed=6),
        lambda root: generate(root, train_images=3),
        lambda root: generate(root, spec=DemoSpec(extent=(20.0, 40.0))),
    ],
    ids=["image missing", "json missing", "other seed", "other size", "other spec"],
)
def test_anything_else_is_made_anew(tmp_path: Path, damage):
    before = files_of(generate(tmp_path))
    damage(tmp_path)
    assert files_of(tmp_path) != before
    assert files_of(generate(tmp_path)) == before


def test_an_interrupted_run_is_seen_and_repaired(tmp_path: Path, monkeypatch):
    whole = files_of(generate(tmp_path / "whole"))
    generate(tmp_path / "broken", seed=6)  # an older one lies there

    def interrupted(spec, seed, split, index):
        if index == 2:
            raise KeyboardInterrupt
        return draw_image(spec, seed, split, index)

    with monkeypatch.context() as patch:
        patch.setattr(demo, "draw_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "broken")
    assert not (tmp_path / "broken" / "annotations" / "train.json").exists()
    assert files_of(generate(tmp_path / "broken")) == whole


@pytest.mark.parametrize("content", ['{"images": []}', "[]", "not JSON"])
def test_foreign_annotations_are_left_alone(tmp_path: Path, content: str):
    foreign = tmp_path / "annotations" / "train.json"
    foreign.parent.mkdir()
    foreign.write_text(content)
    with pytest.raises(DataError, match=r"train\.json is not .* another folder"):
        generate(tmp_path)
    assert files_of(tmp_path) == {"annotations/train.json": content.encode()}
