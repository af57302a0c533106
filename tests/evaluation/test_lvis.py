"""LVIS's metric, against numbers that are computed by hand."""

import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

import ms_detr
from ms_detr.config import load
from ms_detr.data import coco_dataset
from ms_detr.errors import DataError, MissingPackageError
from ms_detr.evaluation import LvisEvaluator, read_results

_numbers = itertools.count()
SIZE = 64
BOX = (8, 8, 40, 40)  # x1, y1, x2, y2
OTHER = (44, 44, 60, 60)


@pytest.fixture
def lvis():
    return pytest.importorskip("lvis")


@pytest.fixture
def dataset(tmp_path):
    """Two images; image 1 shows a cat. What else they tell is given."""

    def write(negative=((), ()), partial=((), ())):
        images = []
        for number in (1, 2):
            Image.new("RGB", (SIZE, SIZE)).save(tmp_path / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": SIZE,
                           "height": SIZE, "neg_category_ids": list(negative[number - 1]),
                           "not_exhaustive_category_ids": list(partial[number - 1])})  # fmt: skip
        x1, y1, x2, y2 = BOX
        content = {
            "images": images,
            "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "area": 1024,
                             "bbox": [x1, y1, x2 - x1, y2 - y1],
                             "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]}],
            "categories": [{"id": 3, "name": "cat", "frequency": "r"},
                           {"id": 9, "name": "dog", "frequency": "f"}],
        }  # fmt: skip
        file = tmp_path / "lvis.json"
        file.write_text(json.dumps(content))
        name = f"lvis_eval_{next(_numbers)}"
        coco_dataset(name, tmp_path, file, masks=True, evaluated=True)
        return name

    return write


def evaluated(name, found, folder=None, masks=False):
    """Found: image, class, score, box."""
    evaluator = LvisEvaluator(name, folder, distributed=False, masks=masks)
    for image in (1, 2):
        own = [x for x in found if x[0] == image]
        instances = Instances((SIZE, SIZE))
        boxes = torch.tensor([x[3] for x in own], dtype=torch.float32).view(-1, 4)
        instances.pred_boxes = Boxes(boxes)
        instances.pred_classes = torch.tensor([x[1] for x in own], dtype=torch.int64)
        instances.scores = torch.tensor([x[2] for x in own], dtype=torch.float32)
        bitmaps = torch.zeros(len(own), SIZE, SIZE, dtype=torch.bool)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.int().tolist(), strict=True):
            bitmap[y1:y2, x1:x2] = True
        instances.pred_masks = bitmaps
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator.evaluate()


RIGHT = (1, 0, 0.9, BOX)
WRONG = (2, 0, 0.95, OTHER)


@pytest.mark.parametrize(
    ("negative", "found", "ap"),
    [
        (((), ()), [RIGHT], 100.0),
        # Image 2 tells nothing of cats: what is found there doesn't count.
        (((), ()), [RIGHT, WRONG], 100.0),
        # It tells that there are none: the wrong one comes first, precision is 1/2.
        (((), (3,)), [RIGHT, WRONG], 50.0),
        (((), (3,)), [WRONG], 0.0),
        (((), ()), [], 0.0),
    ],
)
def test_what_images_tell(lvis, dataset, negative, found, ap):
    result = evaluated(dataset(negative), found)["bbox"]
    assert result["AP"] == pytest.approx(ap)
    assert result["AP-cat"] == pytest.approx(ap)
    if found:
        assert result["APr"] == pytest.approx(ap)  # cats are rare
        assert math.isnan(result["APf"]) and math.isnan(result["AP-dog"])  # there is no dog


def test_classes_that_are_not_annotated_in_full(lvis, dataset):
    wrong = (1, 0, 0.95, OTHER)
    assert evaluated(dataset(), [RIGHT, wrong])["bbox"]["AP"] == pytest.approx(50.0)
    assert evaluated(dataset(partial=((3,), ())), [RIGHT, wrong])["bbox"]["AP"] == pytest.approx(
        100.0
    )


def test_masks_and_files(lvis, dataset, tmp_path):
    found = [RIGHT, (1, 0, 0.95, (8, 8, 40, 20))]  # 12 of 32 rows
    results = evaluated(dataset(), found, str(tmp_path / "out"), masks=True)
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(50.0)
    assert read_results(tmp_path / "out")["bbox"]["AP"] == pytest.approx(50.0)
    names = LvisEvaluator(dataset(), masks=True, distributed=False).metrics()
    assert set(names) == {f"{task}/{name}" for task in results for name in results[task]}


def test_numpy_is_left_as_it_was(lvis, dataset):
    before = hasattr(np, "float")
    evaluated(dataset(), [RIGHT])
    assert hasattr(np, "float") == before


def test_without_the_library(dataset, monkeypatch):
    name = dataset()
    monkeypatch.setitem(sys.modules, "lvis.eval", None)
    with pytest.raises(MissingPackageError, match="python -m pip install lvis"):
        LvisEvaluator(name)


def test_a_file_of_cocos_form(lvis, dataset, tmp_path):
    name = dataset()
    content = json.loads((tmp_path / "lvis.json").read_text())
    for image in content["images"]:
        del image["neg_category_ids"]
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="lacks 'neg_category_ids', which LVIS's files have"):
        evaluated(name, [RIGHT])


def test_a_run_with_federated_loss(lvis, tmp_path, monkeypatch):
    """From two small files of LVIS's form to a checkpoint that needs no config."""
    monkeypatch.chdir(tmp_path)
    for split, seed in (("train", 0), ("val", 5)):
        images, annotations = [], []
        for number in (1, 2):
            file = tmp_path / f"{split}2017" / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            pixels = np.random.default_rng(seed + number).integers(0, 256, (SIZE, SIZE, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(file)
            images.append({"id": number, "width": SIZE, "height": SIZE,
                           "coco_url": f"http://images.cocodataset.org/{split}2017/{number}.png",
                           "neg_category_ids": [2], "not_exhaustive_category_ids": []})  # fmt: skip
            annotations.append({"id": number, "image_id": number, "category_id": 1, "area": 1024,
                                "bbox": [8, 8, 32, 32]})  # fmt: skip
        categories = [{"id": i + 1, "name": f"class {i}", "frequency": "rcf"[i % 3]}
                      for i in range(9)]  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    (tmp_path / "rare.py").write_text(
        "from ms_detr.recipes import federated, lvis\n"
        "from ms_detr.recipes.demo import on_own_images\n"
        "model, dataloader, train, optimizer, lr_multiplier = on_own_images()\n"
        "model = federated(model, num_classes=3)\n"
        "model.num_classes = 9\n"
        "model.postprocess.top_k = 300\n"
        "dataloader.evaluator = lvis().evaluator\n"
        "for loader, split in ((dataloader.train, 'train'), (dataloader.test, 'val')):\n"
        "    loader.dataset.update(name=f'rare_{split}', images='.', annotations=f'{split}.json')\n"
        "dataloader.train.total_batch_size = 2\n"
        "train.update(max_iter=2, epochs=None, report=False, pictures=0, device='cpu')\n"
    )
    results = ms_detr.train(load("rare.py"))
    assert set(results["bbox"]) >= {"AP", "APr", "APc", "APf", "AP-class 0"}
    assert ms_detr.load_model("output/rare/model_final.pth").class_names[0] == "class 0"
