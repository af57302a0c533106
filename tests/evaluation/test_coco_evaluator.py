"""Box AP: against hand-made cases, and against Detectron2's evaluator."""

import json
import math
from collections import OrderedDict

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from torch import nn

from ms_detr.errors import NonFiniteError
from ms_detr.evaluation import CocoEvaluator, evaluate, format_results

# Category id -> name; ids are not contiguous and not in the order of the file.
CATEGORIES = {9: "bar", 2: "square"}


def register(folder, objects, images=3, name=None):
    """A dataset of (image id, class, box xywh[, extra keys]); classes are 0: square, 1: bar."""
    ids = sorted(CATEGORIES)
    content = {
        "images": [{"id": i, "height": 200, "width": 300, "file_name": f"{i}.png"}
                   for i in range(images)],
        "categories": [{"id": i, "name": CATEGORIES[i]} for i in CATEGORIES],
        "annotations": [
            {"id": number, "image_id": image, "category_id": ids[k], "bbox": list(box),
             **(extra[0] if extra else {})}
            for number, (image, k, box, *extra) in enumerate(objects)
        ],
    }  # fmt: skip
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    name = name or str(folder)
    metadata = MetadataCatalog.get(name)
    metadata.json_file = str(path)
    metadata.thing_classes = [CATEGORIES[i] for i in ids]
    metadata.thing_dataset_id_to_contiguous_id = {i: k for k, i in enumerate(ids)}
    return name


def feed(evaluator, detections, images=3):
    """Give detections (image id, class, score, box xywh) to an evaluator."""
    evaluator.reset()
    for image in range(images):
        mine = [d for d in detections if d[0] == image]
        boxes = torch.tensor([d[3] for d in mine], dtype=torch.float32).reshape(-1, 4)
        instances = Instances((200, 300))
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        instances.scores = torch.tensor([float(d[2]) for d in mine])
        instances.pred_classes = torch.tensor([d[1] for d in mine], dtype=torch.int64)
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator


SMALL, MEDIUM = (10, 10, 20, 20), (100, 50, 60, 60)


def results(name, detections, **options):
    return feed(CocoEvaluator(name, **options), detections).evaluate()


def test_perfect_detections(tmp_path):
    name = register(tmp_path, [(0, 0, SMALL), (1, 1, MEDIUM)])
    found = results(name, [(0, 0, 0.9, SMALL), (1, 1, 0.8, MEDIUM)])["bbox"]
    for metric in ("AP", "AP50", "AP75", "APs", "APm", "AP-square", "AP-bar"):
        assert found[metric] == pytest.approx(100.0), metric
    assert math.isnan(found["APl"])


def test_shifted_box_loses_the_strict_thresholds(tmp_path):
    name = register(tmp_path, [(0, 0, (0, 0, 100, 100))])
    # IoU 0.76: right at 0.5, 0.55, ... 0.75, six of ten thresholds.
    found = results(name, [(0, 0, 0.9, (0, 0, 76, 100))])["bbox"]
    assert found["AP"] == pytest.approx(60.0)
    assert found["AP50"] == found["AP75"] == pytest.approx(100.0)


def test_categories_are_mapped_back(tmp_path):
    name = register(tmp_path, [(0, 0, SMALL), (0, 1, MEDIUM)])
    swapped = results(name, [(0, 1, 0.9, SMALL), (0, 0, 0.8, MEDIUM)], output_dir=str(tmp_path))
    assert swapped["bbox"]["AP"] == 0.0
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [d["category_id"] for d in written] == [9, 2]
    assert written[0]["bbox"] == pytest.approx(list(SMALL))


def test_nothing_detected_is_zero(tmp_path):
    name = register(tmp_path, [(0, 0, SMALL)])
    found = results(name, [], nms_threshold=0.5)
    for values in found.values():
        assert values["AP"] == values["APs"] == values["AP-square"] == 0.0
        assert math.isnan(values["APm"]) and math.isnan(values["AP-bar"])


def test_no_objects_is_none(tmp_path):
    name = register(tmp_path, [])
    found = results(name, [(0, 0, 0.9, SMALL)], output_dir=str(tmp_path))
    assert all(math.isnan(value) for value in found["bbox"].values())
    assert "none" in format_results(found) and "nan" not in format_results(found)
    assert json.loads((tmp_path / "results.json").read_text())["bbox"]["AP"] is None


def test_nms_in_the_same_pass(tmp_path):
    name = register(tmp_path, [(0, 0, SMALL), (1, 0, MEDIUM)])
    duplicate = (11, 10, 20, 20)
    detections = [
        (0, 0, 0.9, SMALL),
        (0, 0, 0.8, duplicate),  # a false positive before the second object is found
        (0, 1, 0.85, duplicate),  # another class: NMS keeps it
        (1, 0, 0.7, MEDIUM),
    ]
    found = results(name, detections, nms_threshold=0.7)
    assert found["bbox"]["AP-square"] < 90
    assert found["bbox_nms"]["AP-square"] == pytest.approx(100.0)
    loose = results(name, detections, nms_threshold=0.95)
    assert loose["bbox_nms"] == pytest.approx(loose["bbox"], nan_ok=True)
    assert found["bbox"] == pytest.approx(loose["bbox"], nan_ok=True)


def test_annotations_that_lack_or_break_something(tmp_path):
    objects = [
        (0, 0, SMALL),  # its id is 0, which COCOeval takes for "no match"; no area, no iscrowd
        (0, 0, MEDIUM, {"iscrowd": 1, "area": 3600}),
        (1, 0, (5, 5, 0, 10)),  # no size: nobody could find it
        (1, 0, (300, 5, 10, 10)),  # nor outside the image
        (1, 0, (20, 20, 9, 9), {"iscrowd": None, "area": None}),
        (2, 0, MEDIUM, {"iscrowd": "0", "area": "3600"}),
        (2, 0, SMALL, {"iscrowd": "1"}),
    ]
    name = register(tmp_path, objects)
    detections = [(0, 0, 0.9, SMALL), (0, 0, 0.95, MEDIUM), (1, 0, 0.9, (20, 20, 9, 9))]
    detections += [(2, 0, 0.9, MEDIUM), (2, 0, 0.95, SMALL)]
    found = results(name, detections)["bbox"]
    assert found["AP-square"] == pytest.approx(100.0)  # a detection in a crowd is ignored
    assert [found["APs"], found["APm"]] == pytest.approx([100.0, 100.0])
    with pytest.raises(ValueError, match=r"annotations\.json: annotation 0 has iscrowd = 'no'"):
        results(register(tmp_path, [(0, 0, SMALL, {"iscrowd": "no"})]), detections)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["score", "box"])
def test_what_is_not_finite_is_no_result(tmp_path, bad, where):
    """COCOeval takes a box of NaN for a hit."""
    name = register(tmp_path, [(0, 0, SMALL), (1, 0, SMALL)])
    broken = (bad, SMALL) if where == "score" else (0.9, (10, 10, bad, 20))
    evaluator = CocoEvaluator(name, str(tmp_path), nms_threshold=0.5)
    feed(evaluator, [(0, 0, 0.9, SMALL), (1, 0, *broken)])
    with pytest.raises(NonFiniteError, match=r"NaN or infinite on 1 images \(ids 1\)"):
        evaluator.evaluate()
    assert not (tmp_path / "results.json").exists()
    feed(evaluator, [(0, 0, 0.9, SMALL)]).evaluate()  # the next pass starts anew


def test_agrees_with_detectron2(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def boxes(count):
        return (torch.rand(count, 4, generator=generator) * 100 + 5).tolist()

    objects = [
        (i % 3, i % 2, box, {"iscrowd": int(i % 7 == 0), "area": box[2] * box[3], "id": i + 1})
        for i, box in enumerate(boxes(30))
    ]
    name = register(tmp_path, objects)
    detections = [
        (image, k, score, [v + shift for v in box])
        for (image, k, box, _), score, shift in zip(
            objects * 4,
            torch.rand(120, generator=generator).tolist(),
            (torch.rand(120, generator=generator) * 20).tolist(),
            strict=True,
        )
    ]
    theirs = feed(COCOEvaluator(name, use_fast_impl=False), detections).evaluate()["bbox"]
    ours = results(name, detections)["bbox"]
    assert 5 < ours["AP"] < 95
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, nan_ok=True)
    assert all(name.startswith("AR") for name in set(ours) - set(theirs))


def test_wrong_use(tmp_path):
    name = register(tmp_path, [(0, 0, SMALL)])
    with pytest.raises(ValueError, match="class 2, but .* classes 0 to 1: set model.num_classes=2"):
        results(name, [(0, 2, 0.9, SMALL)])
    with pytest.raises(ValueError, match="image 1 isn't in dataset"):
        results(register(tmp_path, [(0, 0, SMALL)], images=1), [(2, 0, 0.9, SMALL)])
    with pytest.raises(ValueError, match="load it with"):
        results("unheard of", [(0, 0, 0.9, SMALL)])
    with pytest.raises(ValueError, match="from 0 to 1"):
        CocoEvaluator(name, nms_threshold=50)


class Model(nn.Module):
    def __init__(self, fail=False):
        super().__init__()
        self.fail, self.modes = fail, []

    def forward(self, inputs):
        self.modes.append(self.training)
        if self.fail:
            raise RuntimeError("no")
        instances = Instances((200, 300))
        x, y, width, height = SMALL
        instances.pred_boxes = Boxes(torch.tensor([[x, y, x + width, y + height]]).float())
        instances.scores = torch.tensor([0.9])
        instances.pred_classes = torch.tensor([0])
        return [{"instances": instances} for _ in inputs]


@pytest.mark.parametrize("training", [True, False])
def test_evaluate(tmp_path, training):
    name = register(tmp_path, [(0, 0, SMALL), (1, 0, SMALL)])
    loader = [[{"image_id": 0}, {"image_id": 1}]]
    evaluator = CocoEvaluator(name)
    model = Model().train(training)
    for _ in range(2):  # the second pass starts anew
        assert evaluate(model, loader, evaluator)["bbox"]["AP"] == pytest.approx(100.0)
    assert model.modes == [False, False] and model.training is training
    broken = Model(fail=True).train(training)
    with pytest.raises(RuntimeError):
        evaluate(broken, loader, evaluator)
    assert broken.training is training


def test_evaluate_on_no_images(tmp_path):
    """A process may get none of a small dataset."""
    name = register(tmp_path, [(0, 0, SMALL)])
    assert evaluate(Model(), [], CocoEvaluator(name))["bbox"]["AP"] == 0.0


def test_table():
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 12.345)
    few = {**metrics, "APl": math.nan, "AP-cat": 1.0, "AP-1e5": 2.0}
    text = format_results(OrderedDict(bbox=few, bbox_nms={**few, "AP-cat": 3.0}))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()]
    assert rows[2] == ["bbox", "12.35", "12.35", "12.35", "12.35", "12.35", "none"]
    assert ["cat", "1.00", "3.00"] in rows and ["1e5", "2.00", "2.00"] in rows
    many = {**metrics, **{f"AP-c{i}": float(i) for i in range(80)}}
    text = format_results({"bbox": many})
    assert len(text.splitlines()) < 36
    assert all(f"c{i} " in text and f" {i}.00 " in text for i in range(80))
