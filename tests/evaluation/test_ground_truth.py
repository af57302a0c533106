"""What decides which objects count, and by which size: areas, flags, limits, names of classes."""

import json
import logging
import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter
from PIL import Image

from ms_detr.data import class_names, coco_dataset, kept_truth
from ms_detr.evaluation import CocoEvaluator, format_results, read_results

from .test_coco_evaluator import MEDIUM, SMALL, feed, register, results
from .test_coco_masks import feed as feed_masks
from .test_coco_masks import polygon

UNSAID = object()
LARGE = (100, 20, 120, 120)


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize(
    "area",
    [
        -3600,
        -1,
        0,
        0.25,  # fractions of an image
        0.96,
        1e11,
        pytest.param(10**400, id="400 digits"),
        3800,
        math.nan,
        math.inf,
        -math.inf,
        None,
        UNSAID,
        "3600",
        True,
    ],
)
def test_an_area_that_cannot_be_right_is_computed(tmp_path, caplog, area):
    extra = {} if area is UNSAID else {"area": area}
    good = {"area": 399.5}
    name = register(tmp_path, [(0, 0, SMALL, good), (1, 0, MEDIUM, extra)])
    found = results(name, [(0, 0, 0.9, SMALL), (1, 0, 0.8, MEDIUM)])["bbox"]
    assert [found["AP"], found["APs"], found["APm"]] == pytest.approx([100.0] * 3)
    # Of two objects one that isn't found is missed, whatever the file says of its area.
    missed = results(name, [(0, 0, 0.9, SMALL)])["bbox"]
    assert missed["AP"] < 51 and missed["APm"] == 0
    said = [message for message in warnings(caplog) if "'area'" in message]
    assert len(said) == 2  # once for each evaluator
    assert "the 'area' of 1 of 2 annotations" in said[0] and "annotation 1 with area" in said[0]


def test_a_file_without_areas_needs_no_warning(tmp_path, caplog):
    """Boxes tell the sizes of its objects; nothing is to be mended."""
    caplog.set_level(logging.INFO)
    name = register(tmp_path, [(0, 0, SMALL, {}), (1, 0, MEDIUM, {})])
    found = results(name, [(0, 0, 0.9, SMALL), (1, 0, 0.8, MEDIUM)])["bbox"]
    assert [found["APs"], found["APm"]] == pytest.approx([100.0] * 2)
    assert not warnings(caplog)
    assert "annotations.json: no annotation has an 'area': it is the box's" in caplog.text


@pytest.mark.parametrize("area", [1.5, 400, 1800, 3600.0, 61 * 61])
def test_an_area_that_can_be_right_is_the_file_s(tmp_path, caplog, area):
    """The mask's is smaller than the box; of a box of whole pixels it may be one wider."""
    name = register(tmp_path, [(0, 0, MEDIUM, {"area": area})])
    found = results(name, [(0, 0, 0.8, MEDIUM)])["bbox"]
    size, other = ("APs", "APm") if area < 1024 else ("APm", "APs")
    assert found[size] == pytest.approx(100.0) and math.isnan(found[other])
    assert not [message for message in warnings(caplog) if "'area'" in message]


def test_a_box_beyond_the_image_has_the_area_within(tmp_path):
    """Its own would be beyond what COCO's metric looks at."""
    box = (280, 180, 2e5, 2e5)
    name = register(tmp_path, [(0, 0, box, {"area": 4e10}), (1, 0, SMALL, {"area": 400})])
    found = results(name, [(1, 0, 0.9, SMALL)])["bbox"]
    assert found["AP"] == pytest.approx(50.5, abs=0.1)  # one of two
    assert math.isnan(found["APl"]) and found["APs"] < 51


def test_a_huge_detection_is_wrong(tmp_path):
    """A detection's area beyond COCO's range would let it count neither way."""
    name = register(tmp_path, [(0, 0, SMALL)])
    huge = (0, 0, 0.95, (-1e6, -1e6, 2e6, 2e6))
    assert results(name, [huge, (0, 0, 0.9, SMALL)])["bbox"]["AP"] == pytest.approx(50.0, abs=1)


def test_with_masks_the_area_is_the_mask_s(tmp_path, caplog):
    lacking = {"area": -400, "segmentation": polygon(*SMALL)}
    empty = {"segmentation": polygon(100, 50, 0.01, 60)}  # no pixel: the box is all there is
    name = register(tmp_path, [(0, 0, MEDIUM, lacking), (1, 0, LARGE, empty)])
    found = [(0, 0, 0.9, MEDIUM, SMALL), (1, 0, 0.8, LARGE, LARGE)]
    sizes = feed_masks(CocoEvaluator(name, masks=True), found).evaluate()["bbox"]
    assert [sizes["APs"], sizes["APl"]] == pytest.approx([100.0, 100.0])
    assert math.isnan(sizes["APm"])
    assert "the 'area' of 2 of 2 annotations" in " ".join(warnings(caplog))
    assert "computed from the mask" in " ".join(warnings(caplog))


@pytest.mark.parametrize("area", [5, 399, 1600, 3500])
def test_an_area_that_the_mask_contradicts_is_computed(tmp_path, caplog, area):
    """Of 20 x 20 pixels in a box of 60 x 60; up to four times as large is the file's to say."""
    annotation = {"area": area, "segmentation": polygon(*SMALL)}
    name = register(tmp_path, [(0, 0, MEDIUM, annotation)])
    found = feed_masks(CocoEvaluator(name, masks=True), [(0, 0, 0.9, MEDIUM, SMALL)]).evaluate()
    believed = 100 <= area <= 1600
    assert found["segm"]["APm" if believed and area > 1024 else "APs"] == pytest.approx(100.0)
    assert bool([m for m in warnings(caplog) if "'area'" in m]) is not believed


def test_an_ignore_flag_is_not_cocos(tmp_path, caplog):
    objects = [(0, 0, SMALL, {"ignore": 1, "area": 400}), (0, 1, SMALL, {"ignore": 0})]
    found = results(register(tmp_path, objects), [(0, 1, 0.9, SMALL)])["bbox"]
    assert found["AP-square"] == 0 and found["AP-bar"] == pytest.approx(100.0)
    assert "1 of 2 annotations have 'ignore' set" in " ".join(warnings(caplog))


def crowded(count: int) -> list:
    """So many objects of one class in an image."""
    return [(0, 0, (10 * (i % 25), 10 * (i // 25), 8, 8), {"area": 64}) for i in range(count)]


def test_more_objects_than_coco_looks_at(tmp_path, caplog):
    objects = [*crowded(375), (1, 1, SMALL, {"area": 400})]
    name = register(tmp_path, objects)
    perfect = [(image, k, 0.9, box) for image, k, box, _ in objects]
    raised = results(name, perfect, max_detections=375)["bbox"]
    assert raised["AP"] == raised["APs"] == raised["AR@375"] == pytest.approx(100.0)
    assert raised["AR@1"] == pytest.approx(100 * (1 / 375 + 1) / 2)
    assert raised["AR@10"] == pytest.approx(100 * (10 / 375 + 1) / 2)
    assert not [message for message in warnings(caplog) if "max_detections" in message]
    caplog.clear()
    evaluator = CocoEvaluator(name)
    usual = [feed(evaluator, perfect).evaluate()["bbox"] for _ in range(2)][1]
    assert usual["AP"] == pytest.approx(100 * (27 / 101 + 1) / 2)
    assert usual["AR@100"] == pytest.approx(100 * (100 / 375 + 1) / 2)
    said = [message for message in warnings(caplog) if "max_detections" in message]
    assert len(said) == 1
    assert "up to 375 objects of a class" in said[0] and "275 of 376 objects" in said[0]
    assert "dataloader.evaluator.max_detections=375" in said[0] and "top_k" in said[0]


def test_fewer_detections_than_coco_looks_at(tmp_path):
    name = register(tmp_path, crowded(4))
    perfect = [(image, k, 0.9, box) for image, k, box, _ in crowded(4)]
    found = results(name, perfect, max_detections=2)["bbox"]
    assert found["AR@2"] == pytest.approx(50.0) and "AR@100" not in found
    with pytest.raises(ValueError, match="max_detections must be a whole number .* got 0"):
        CocoEvaluator(name, max_detections=0)


def write(folder, names: list[str], annotations: list[dict]) -> None:
    content = {
        "images": [{"id": i, "height": 200, "width": 300, "file_name": f"{i}.png"}
                   for i in range(3)],
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names)],
        "annotations": annotations,
    }  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content))
    for i in range(3):
        Image.fromarray(np.zeros((200, 300, 3), np.uint8)).save(folder / f"{i}.png")


def load(folder, names: list[str], found=(), **options):
    """A dataset with an object of every class, in image 0; results of what is found of them."""
    write(folder, names, [
        {"id": i + 1, "image_id": 0, "category_id": 10 * i, "bbox": list(SMALL), "area": 400}
        for i in range(len(names))
    ])  # fmt: skip
    coco_dataset(str(folder), folder, folder / "annotations.json", evaluated=True)
    evaluator = CocoEvaluator(str(folder), str(folder / "out"), **options)
    return feed(evaluator, [(0, k, 0.9, SMALL) for k in found]).evaluate()


def test_classes_of_one_name_are_kept_apart(tmp_path, caplog):
    names = ["cell", "dog", "cell", "cell ", "", "  "]
    found = load(tmp_path, names, found=(0, 3, 4))["bbox"]
    distinct = ["cell (id 0)", "dog", "cell (id 20)", "cell (id 30)", "(id 40)", "(id 50)"]
    assert class_names(str(tmp_path)) == distinct
    assert [found[f"AP-{name}"] for name in distinct] == pytest.approx([100, 0, 0, 100, 100, 0])
    said = warnings(caplog)
    assert len(said) == 1 and "5 categories" in said[0] and "cell (id 0), cell (id 20)" in said[0]
    written = read_results(tmp_path / "out")["bbox"]
    assert written == pytest.approx(found, nan_ok=True)
    rows = [
        [c.strip() for c in row.split("|")] for row in format_results({"bbox": found}).split("\n")
    ]
    assert all(any(name in row for row in rows) for name in distinct)


def test_names_that_are_odd_but_different_stay(tmp_path, caplog):
    names = ["s", "AP", "APs", "a/b", "a", "Cell", "cell", "a_b", "cell (id 5)", "x|y", "n" * 200]
    found = load(tmp_path, names, found=range(0, len(names), 2))["bbox"]
    assert class_names(str(tmp_path)) == names and not warnings(caplog)
    assert [found[f"AP-{name}"] for name in names] == pytest.approx([100.0, 0] * 5 + [100.0])
    assert found["APs"] == found["AP"] == pytest.approx(600 / 11)
    text = format_results({"bbox": found})
    assert max(map(len, text.splitlines())) < 100
    assert len({len(row) for row in text.split("\n\n")[1].splitlines()}) == 1  # no broken row


def test_a_category_may_be_called_like_a_made_name(tmp_path):
    load(tmp_path, ["cell", "cell", "cell (id 10)"])
    names = class_names(str(tmp_path))
    assert len(set(names)) == 3 and names[2] == "cell (id 10)"


def test_metrics_by_class_reach_the_logs_apart(tmp_path):
    """With a slash, a blank, a colon: what writers might change in a name."""
    from detectron2.evaluation.testing import flatten_results_dict
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = ["a/b", "a", "a b", "a_b", "a:b", "b", "b"]
    found = load(tmp_path, names, found=(0, 2, 5))
    flat = flatten_results_dict(found)
    writers = [JSONWriter(str(tmp_path / "metrics.json")), TensorboardXWriter(str(tmp_path))]
    with EventStorage(0) as storage:
        storage.put_scalars(
            **{k: v for k, v in flat.items() if math.isfinite(v)}, smoothing_hint=False
        )
        for writer in writers:
            writer.write()
            writer.close()
    logged = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    events = EventAccumulator(str(tmp_path)).Reload()
    for name, value in zip(
        [*names[:5], "b (id 50)", "b (id 60)"], [100.0, 0, 100, 0, 0, 100, 0], strict=True
    ):
        key = f"bbox/AP-{name}"
        assert logged[key] == pytest.approx(value)
        assert events.Scalars(key)[0].value == pytest.approx(value)


def test_ground_truth_is_read_once(tmp_path, caplog):
    """The evaluator takes what the loader has read; the file may be gone."""
    annotation = {"id": 1, "image_id": 0, "category_id": 0, "bbox": list(SMALL), "area": -1}
    write(tmp_path, ["ant"], [annotation])
    name = str(tmp_path)
    records = coco_dataset(name, tmp_path, tmp_path / "annotations.json", evaluated=True)
    assert set(records[0]["annotations"][0]) == {"iscrowd", "bbox", "category_id", "bbox_mode"}
    (tmp_path / "annotations.json").unlink()
    found = results(name, [(0, 0, 0.9, SMALL)])
    assert found["bbox"]["AP"] == pytest.approx(100.0)
    assert len([message for message in warnings(caplog) if "'area'" in message]) == 1
    # Masks weren't kept: they would have to be read.
    assert kept_truth(name) is not None and kept_truth(name, masks=True) is None


def test_a_dataset_that_detectron2_alone_knows(tmp_path):
    write(tmp_path, ["ant", "ant"], [
        {"id": 1, "image_id": 0, "category_id": 10, "bbox": list(SMALL)}
    ])  # fmt: skip
    name = str(tmp_path)
    register_coco_instances(name, {}, str(tmp_path / "annotations.json"), str(tmp_path))
    try:
        found = results(name, [(0, 1, 0.9, SMALL)])["bbox"]
        assert found["AP-ant (id 10)"] == pytest.approx(100.0)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def test_an_evaluation_warns_before_training(tmp_path, caplog):
    """The limit is checked when the evaluator is made, if the dataset was loaded by then."""
    objects = crowded(101)
    write(tmp_path, ["ant"], [
        {"id": i + 1, "image_id": 0, "category_id": 0, "bbox": list(box), "area": 64,
         "iscrowd": int(i == 0)}
        for i, (_, _, box, _) in enumerate(objects)
    ])  # fmt: skip
    options = {"images": tmp_path, "annotations": tmp_path / "annotations.json"}
    coco_dataset(str(tmp_path), **options, evaluated=True)
    CocoEvaluator(str(tmp_path))
    assert not warnings(caplog)  # a crowd is no object
    CocoEvaluator(str(tmp_path), max_detections=99)
    assert "max_detections=100" in warnings(caplog)[0]


@pytest.mark.parametrize("evaluated", [True, False])  # from memory, from the file
def test_classes_in_the_order_of_weights(tmp_path, evaluated):
    write(tmp_path, ["ant", "bee", "cat"], [
        {"id": 1, "image_id": 0, "category_id": 10, "bbox": list(SMALL), "area": 400}
    ])  # fmt: skip
    files = {"images": tmp_path, "annotations": tmp_path / "annotations.json"}
    coco_dataset(str(tmp_path), **files, classes=["bee", "cat", "ant"], evaluated=evaluated)
    found = results(str(tmp_path), [(0, 0, 0.9, SMALL)], output_dir=str(tmp_path))["bbox"]
    assert found["AP"] == found["AP-bee"] == pytest.approx(100.0)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert written[0]["category_id"] == 10
