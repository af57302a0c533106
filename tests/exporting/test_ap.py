"""AP of exported files, predicted by the example without torch, beside PyTorch's.

Images are the demo's. With `MS_DETR_TRAINED`, a checkpoint of `ms-detr demo` with masks or without,
objects are too; otherwise the model is untrained, and what PyTorch finds best of all, a little
moved, is taken for the objects.
"""

import importlib.util
import json
import os

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import ms_detr
from ms_detr.exporting import Form, export
from tests.conftest import ROOT
from tests.tiny_checkpoint import write_tiny

TRAINED = os.environ.get("MS_DETR_TRAINED")
CLOSE = 0.1  # points of AP


def example():
    path = ROOT / "docs" / "examples" / "onnx_predict.py"
    spec = importlib.util.spec_from_file_location("onnx_predict", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(mask) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def result(image_id, label, score, box, mask) -> dict:
    x1, y1, x2, y2 = (float(x) for x in box)
    entry = {"image_id": image_id, "category_id": int(label), "score": float(score)}
    entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return entry if mask is None else entry | {"segmentation": encoded(mask)}


def of_pytorch(model, files) -> list[dict]:
    found = []
    for image_id, file in enumerate(files):
        x = ms_detr.predict(model, file)
        masks = x.pred_masks.numpy() if x.has("pred_masks") else [None] * len(x)
        rows = zip(x.pred_classes, x.scores, x.pred_boxes.tensor, masks, strict=True)
        found += [result(image_id, *row) for row in rows]
    return found


def of_file(path, files, names) -> list[dict]:
    module = example()
    detector = module.Detector(str(path), threshold=0.0)
    found = []
    for image_id, file in enumerate(files):
        for x in detector(module.Image.open(file)):
            row = names.index(x["name"]), x["score"], x["box"], x.get("mask")
            found.append(result(image_id, *row))
    return found


def objects(found, files, names) -> COCO:
    """The best ten of each image as annotations, the boxes moved so that no AP of theirs is 100."""
    rng = np.random.default_rng(0)
    annotations = []
    for image_id in range(len(files)):
        for x in [x for x in found if x["image_id"] == image_id][:10]:
            x1, y1, width, height = x["bbox"]
            dx, dy = rng.uniform(-0.15, 0.15, 2) * (width, height)
            box = [x1 + dx, y1 + dy, width, height]
            one = {**x, "id": len(annotations) + 1, "bbox": box, "area": width * height}
            annotations.append(one | {"iscrowd": 0})
    images = []
    for number, file in enumerate(files):
        with Image.open(file) as image:
            images.append({"id": number, "width": image.width, "height": image.height})
    return indexed(images, annotations, names)


def indexed(images, annotations, names) -> COCO:
    coco = COCO()
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.dataset["info"] = {}
    coco.createIndex()
    return coco


def of_dataset(folder, names) -> tuple[list[str], COCO]:
    """Images and objects of the demo's validation split."""
    content = json.loads((folder / "annotations" / "val.json").read_text())
    numbers = {x["id"]: i for i, x in enumerate(content["images"])}
    classes = {x["id"]: names.index(x["name"]) for x in content["categories"]}
    files = [str(folder / "val" / x["file_name"]) for x in content["images"]]
    annotations = [
        {**x, "image_id": numbers[x["image_id"]], "category_id": classes[x["category_id"]]}
        for x in content["annotations"]
    ]
    images = [{**x, "id": numbers[x["id"]]} for x in content["images"]]
    return files, indexed(images, annotations, names)


def average_precision(coco, found, kind) -> float:
    evaluation = COCOeval(coco, coco.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * evaluation.stats[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("masks", "gather"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_the_same_ap(masks, gather, tmp_path, demo_dataset, capsys):
    pytest.importorskip("onnxruntime")
    trained = TRAINED is not None
    weights = TRAINED or write_tiny(tmp_path / "model.pth", masks=masks)
    folder = ROOT / "datasets" / "ms_detr_demo" if trained else demo_dataset
    model = ms_detr.load_model(weights)
    if masks and model.masks is None:
        pytest.skip("MS_DETR_TRAINED has no masks")
    names = list(model.class_names)
    files, coco = of_dataset(folder, names)
    expected = of_pytorch(model, files)
    if not trained:
        coco = objects(expected, files, names)
    form = Form(masks=masks, gather=gather)
    found = of_file(export(model, tmp_path / "model.onnx", "onnx", form), files, names)
    assert len(found) == len(expected) > 500
    for kind in ("bbox", "segm") if masks else ("bbox",):
        before, after = (average_precision(coco, x, kind) for x in (expected, found))
        with capsys.disabled():
            print(f"{kind}: PyTorch {before:.3f}, exported {after:.3f}")
        assert before > 5
        assert abs(before - after) < CLOSE
