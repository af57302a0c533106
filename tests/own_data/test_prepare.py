"""What is chosen for a folder of data, against numbers that are computed by hand."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.data import coco_dataset
from ms_detr.data.formats import Options, importing
from ms_detr.errors import ConfigError, DataError, MissingFileError, SystemLimitError
from ms_detr.own_data import Request, choices, prepare, request_of
from ms_detr.own_data.preparing import CONVERTED
from tests.data.formats.support import voc_object, write_image, write_text, write_xml

from . import forms

CPU = ("train.device=cpu",)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs lie in ./output."""
    monkeypatch.chdir(tmp_path)


def written(form: str, folder: Path, **options) -> Path:
    forms.WRITERS[form](folder, **options)
    return folder


def prepared(folder: Path, *overrides: str, config=None, split=None, **options):
    return prepare(Request(folder, split), config, [*CPU, *overrides], **options)


def objects_of(cfg, loader: str) -> dict[str, list]:
    """Class and box of the objects, by the stem of their image's name, as a run reads them."""
    node = cfg.dataloader[loader].dataset
    records = coco_dataset(node.name, node.images, node.annotations)
    from detectron2.data import MetadataCatalog

    classes = MetadataCatalog.get(node.name).thing_classes
    return {
        Path(record["file_name"]).stem: [
            (classes[x["category_id"]], *np.round(x["bbox"], 3).tolist())
            for x in record["annotations"]
        ]
        for record in records
    }


def wanted(split: str, only_class: str | None = None) -> dict[str, list]:
    return {
        name: sorted((only_class or c, x1, y1, x2 - x1, y2 - y1) for c, (x1, y1, x2, y2) in found)
        for own, name, found in forms.names()
        if own == split
    }


@pytest.mark.parametrize("form", ["voc", "yolo", "labelme", "coco"])
def test_every_form_is_trained_on_as_it_was_annotated(form, tmp_path):
    found = prepared(written(form, tmp_path / "Müller's data"))
    cfg = load(found.config, found.overrides)
    assert cfg.model.num_classes == 2
    for loader, split in (("train", "train"), ("test", "val")):
        read = {name: sorted(x) for name, x in objects_of(cfg, loader).items()}
        assert read == wanted(split)
    assert Path(cfg.train.output_dir) == tmp_path / "output" / "Müller_s_data"
    text = "\n".join(found.lines)
    assert f"{form}, 2 classes (cat, dog)" in text
    assert "train 4 images with 5 objects, 1 of them without any" in text
    assert "val 2 images with 3 objects, as divided there" in text
    assert ("converted to" in text) == (form != "coco")  # which is read where it lies


def test_mask_images_choose_a_recipe_with_masks(tmp_path):
    found = prepared(written("masks", tmp_path / "nuclei"))
    cfg = load(found.config)
    assert cfg.model.masks is not None and cfg.dataloader.masks
    assert cfg.model.num_classes == 1
    both = objects_of(cfg, "train") | objects_of(cfg, "test")
    everything = wanted("train", "object") | wanted("val", "object")
    # An image without masks is one that nobody has annotated.
    assert {name: sorted(x) for name, x in both.items()} == {
        name: x for name, x in everything.items() if x
    }
    assert "divided here" in "\n".join(found.lines)


def test_masks_of_data_and_config(tmp_path):
    boxes, outlines = written("coco", tmp_path / "boxes"), tmp_path / "outlines"
    forms.coco(outlines, masks=True)
    assert load(prepared(boxes).config).dataloader.masks is False
    assert load(prepared(outlines).config).dataloader.masks is True
    with pytest.raises(ConfigError, match="learns masks, and not every object of the data has"):
        prepared(boxes, "train.output_dir=x", config="demo/ms_detr_masks.py")
    told = prepared(outlines, "train.output_dir=y", config="demo/small.py")
    assert "the data have some, the config learns boxes alone" in "\n".join(told.lines)
    lsj = "co_detr/co_dino_r50_5scale_lsj_12ep.py"
    pasted = prepared(boxes, "train.output_dir=z", 'train.init_checkpoint=""', config=lsj)
    assert load(pasted.config).dataloader.train.copy_paste is None


def test_queries_follow_the_fullest_image(tmp_path):
    folder = tmp_path / "cells"
    for i, count in enumerate((1, 33, 2, 0, 1)):
        write_image(folder / f"{i}.png", i)
        boxes = [(1 + j, 2, 20 + j, 30) for j in range(count)]
        write_xml(folder / f"{i}.xml", "".join(voc_object("cell", box) for box in boxes))
    found = prepared(folder)
    cfg = load(found.config)
    assert cfg.model.num_queries == 70  # twice 33, in tens
    assert "70, for up to 33 objects" in "\n".join(found.lines)
    with torch.device("meta"):
        instantiate(cfg.model)
    own = prepared(folder, "model.num_queries=50", "train.output_dir=own")
    assert load(own.config).model.num_queries == 50


def test_more_of_a_class_than_coco_evaluates(tmp_path):
    folder = tmp_path / "crowded"
    for i in range(5):
        write_image(folder / f"{i}.png", i)
        boxes = [(1 + j % 40, 2 + j // 40, 20 + j % 40, 30) for j in range(130 if i == 0 else 1)]
        write_xml(folder / f"{i}.xml", "".join(voc_object("cell", box) for box in boxes))
    cfg = load(prepared(folder).config)
    assert cfg.model.num_queries == 260 == cfg.model.postprocess.top_k
    assert cfg.dataloader.evaluator.max_detections == 260


def test_the_length_of_a_run(tmp_path):
    folder = written("voc", tmp_path / "data")
    cfg = load(prepared(folder).config)
    # 4 training images are one step, which 300 epochs are the most for.
    assert (cfg.dataloader.train.total_batch_size, cfg.train.epochs) == (4, 300.0)
    assert cfg.train.eval_epochs == 30.0
    assert cfg.train.lr_scaling == "linear"  # from 8 images
    said = load(prepared(folder, "train.max_iter=7", "train.output_dir=b").config)
    assert (said.train.max_iter, said.train.epochs) == (7, None)
    two = load(prepared(folder, "dataloader.train.total_batch_size=2", "optimizer.lr=1e-3",
                        "train.output_dir=c").config)  # fmt: skip
    assert two.optimizer.lr == 1e-3
    facts = choices.Facts((), frozenset(), 600, 1, 0, 1, 1, False)
    measured = choices.Measured(None, facts, facts, "val")
    _, length = choices.schedule(measured, load("demo/small.py"), {}, 1)
    assert length.keys["train.epochs"] == 20.0  # 150 steps each, 3,000 in all
    large = choices.Measured(None, choices.Facts((), frozenset(), 10**6, 1, 0, 1, 1, False),
                             facts, "val")  # fmt: skip
    step, length = choices.schedule(large, load("ms_detr/ms_detr_r50_300q_12ep.py"), {}, 2)
    assert length.keys["train.epochs"] == 12.0
    assert step.keys["dataloader.train.total_batch_size"] == 8


def test_boxes_are_read_as_is_asked_for(tmp_path):
    """The files have the devkit's numbers; counted from 0 the same boxes lie a pixel further."""
    folder = written("voc", tmp_path / "data")
    name, (kind, x1, y1, x2, y2) = "a0", forms_first()
    boxes = {}
    for voc_boxes in ("auto", "zero-based", "edges"):
        options = Options(voc_boxes=voc_boxes, classes=[kind])
        output = f"train.output_dir=output/{voc_boxes}"
        request = Request(folder, options=options)
        cfg = load(prepare(request, None, [*CPU, output]).config)
        assert cfg.model.num_classes == 1
        boxes[voc_boxes] = objects_of(cfg, "train")[name][0]
    assert boxes["auto"] == (kind, x1, y1, x2 - x1, y2 - y1)
    assert boxes["zero-based"] == (kind, x1 + 1, y1 + 1, x2 - x1, y2 - y1)
    assert boxes["edges"] == (kind, x1 + 1, y1 + 1, x2 - x1 - 1, y2 - y1 - 1)
    assert len([*(tmp_path / "output" / CONVERTED).glob("data-*")]) == 3  # none is another's


def forms_first() -> tuple:
    """Class and corners of the first image's first object."""
    _, _, found = forms.names()[0]
    kind, corners = found[0]
    return kind, *corners


def test_options_of_another_form_are_errors(tmp_path):
    folder = written("yolo", tmp_path / "data")
    with pytest.raises(ConfigError, match="difficult is of VOC's form, and the data are of the fo"):
        prepare(Request(folder, options=Options(difficult="keep")), None, CPU)


def test_data_are_converted_once_and_again_when_they_have_changed(tmp_path, monkeypatch):
    folder = written("voc", tmp_path / "data")
    calls = []
    real = importing.import_dataset
    monkeypatch.setattr(
        "ms_detr.own_data.source.import_dataset", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    first = prepared(folder)
    again = prepared(folder, "train.output_dir=output/other")
    assert calls == [1]
    assert any("converted before" in line for line in again.lines)
    shares = prepared(folder, "train.output_dir=output/third", split=(0.5,))
    assert calls == [1, 1] and any("divided here" in line for line in shares.lines)
    label = folder / "Annotations" / "a1.xml"
    os.utime(label, ns=(1, 1))
    assert prepared(folder, "train.output_dir=output/fourth").config != first.config
    assert calls == [1, 1, 1]
    kept = [path for path in (tmp_path / "output" / CONVERTED).iterdir() if path.is_dir()]
    assert len(kept) == 3
    # Half of it was removed by hand.
    for one in kept:
        shutil.rmtree(one / "annotations")
    prepared(folder, "train.output_dir=output/fifth")
    assert calls == [1] * 4


def test_images_of_yolo_elsewhere_count_as_data(tmp_path, monkeypatch):
    written("yolo", tmp_path / "all")
    folder = tmp_path / "yaml"
    write_text(folder / "data.yaml", f"path: {tmp_path}/all\ntrain: images/train\n"
               "val: images/val\nnames: [cat, dog]\n")  # fmt: skip
    first = load(prepared(folder).config).dataloader.train.dataset.name
    labels = tmp_path / "all/labels/train/a0.txt"
    labels.write_text(labels.read_text() + "1 0.5 0.5 0.1 0.1\n")
    second = load(prepared(folder, "train.output_dir=b").config).dataloader.train.dataset
    assert second.name != first
    assert len(json.loads(Path(second.annotations).read_text())["annotations"]) == 6


def test_what_training_starts_from(tmp_path, monkeypatch):
    folder = written("coco", tmp_path / "data")
    r50 = "ms_detr/ms_detr_pp_r50_300q_12ep.py"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    cached = tmp_path / "hub/hub/checkpoints/resnet50-0676ba61.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"")
    found = prepared(folder, config=r50)
    assert f"of the backbone, {cached}" in "\n".join(found.lines)
    assert "init_checkpoint" not in Path(found.config).read_text()

    def refused(source):
        raise SystemLimitError("no network")

    monkeypatch.setattr(choices, "local_file", refused)
    cfg = load(prepared(folder, "train.output_dir=b", config=r50).config)
    assert (cfg.train.init_checkpoint, cfg.model.backbone.norm) == ("", "BN")
    assert cfg.model.backbone.freeze_at == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="--weights x.pth: there is no such file"):
        prepared(folder, "train.output_dir=c", weights="x.pth")
    Path("x.pth").touch()
    cfg = load(prepared(folder, "train.output_dir=c", weights="x.pth").config)
    assert (cfg.train.init_checkpoint, cfg.train.fine_tune) == (str(tmp_path / "x.pth"), True)
    with pytest.raises(ConfigError, match="say the same thing"):
        prepared(folder, "train.init_checkpoint=x.pth", "train.output_dir=d", weights="x.pth")


def test_classes_of_one_split_alone(tmp_path):
    folder = tmp_path / "data"
    for split, name in (("train", "cat"), ("val", "dog")):
        for i in range(2):
            write_image(folder / split / f"{split}{i}.png", i + 5 * (split == "val"))
            write_xml(folder / split / f"{split}{i}.xml", voc_object(name, (1, 1, 20, 20)))
    found = prepared(folder)
    assert "no training image has dog: never learnt" in "\n".join(found.lines)
    assert load(found.config).model.num_classes == 2


def test_data_that_nothing_can_be_made_of(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="of no form that is known"):
        prepared(empty)
    both = written("voc", tmp_path / "both")
    forms.yolo(both)
    with pytest.raises(DataError, match="may be of the forms voc, yolo"):
        prepared(both)
    bare = tmp_path / "bare"
    for i in range(4):
        write_image(bare / "images" / f"{i}.png", i)
        write_text(bare / "labels" / f"{i}.txt", "")
    write_text(bare / "data.yaml", "train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="no training image has an object"):
        prepared(bare)
    one = tmp_path / "one"
    write_image(one / "a.png")
    write_xml(one / "a.xml", voc_object("cat", (1, 1, 20, 20)))
    with pytest.raises(DataError, match="--split 1 keeps all in train"):
        prepared(one)
    with pytest.raises(MissingFileError, match="is not there"):
        Request(tmp_path / "nothing")
    with pytest.raises(MissingFileError, match="give the folder in which it lies"):
        Request(bare / "data.yaml")
    assert not (tmp_path / "output/empty").exists() and not (tmp_path / "output/one").exists()
    left = [path.name for path in (tmp_path / "output" / CONVERTED).iterdir()]
    assert not [name for name in left if name.endswith(".partial")]


def test_one_image_is_evaluated_as_it_was_trained(tmp_path):
    one = tmp_path / "one"
    write_image(one / "a.png")
    write_xml(one / "a.xml", voc_object("cat", (1, 1, 20, 20)))
    found = prepared(one, split=(1,))
    cfg = load(found.config)
    assert "AP says nothing about others" in "\n".join(found.lines)
    assert cfg.dataloader.train.total_batch_size == 1
    train, test = (cfg.dataloader[loader].dataset for loader in ("train", "test"))
    assert train.annotations == test.annotations and train.name != test.name


def test_a_form_that_is_named(tmp_path):
    both = written("voc", tmp_path / "both")
    forms.yolo(both)
    found = prepare(Request(both, form="yolo"), overrides=CPU)
    assert "yolo, 2 classes" in "\n".join(found.lines)
    with pytest.raises(ConfigError, match="no form of dataset"):
        prepare(Request(both, form="csv"), overrides=CPU)


def test_the_data_stay_as_they_are(tmp_path, monkeypatch):
    folder = written("voc", tmp_path / "data")
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="lies in the data"):
        prepared(folder)
    with pytest.raises(ConfigError, match="--converted .* lies in the data"):
        prepare(Request(folder, converted=folder / "c"), overrides=[f"train.output_dir={tmp_path}"])
    assert not (folder / "output").exists()


def test_interrupted_conversions_leave_nothing(tmp_path, monkeypatch):
    folder = written("voc", tmp_path / "data")
    puts = []

    def interrupted(*_):
        puts.append(1)
        if len(puts) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(folder)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in (tmp_path / "output" / CONVERTED).iterdir()] == ["lock"]
    assert not (tmp_path / "output" / "data").exists()
    # One that was killed has left this.
    found = prepared(folder, "train.output_dir=a")
    name = load(found.config).dataloader.train.dataset.name.removesuffix("_train")
    target = tmp_path / CONVERTED / name
    os.rename(target, f"{target}.partial")
    prepared(folder, "train.output_dir=b")
    assert not Path(f"{target}.partial").exists() and target.is_dir()


def test_a_misspelt_key_is_found_before_anything_is_converted(tmp_path):
    folder = written("voc", tmp_path / "data")
    with pytest.raises(ConfigError, match="unknown config key 'model.num_querys'"):
        prepared(folder, "model.num_querys=3")
    assert not (tmp_path / "output").exists()


def test_the_config_of_an_earlier_run_stays(tmp_path):
    folder = written("coco", tmp_path / "data")
    found = prepared(folder)
    text = Path(found.config).read_text()
    (tmp_path / "output/data/model_final.pth").touch()
    with pytest.raises(ConfigError, match="holds checkpoints of an earlier run"):
        prepared(folder, "model.num_queries=99")
    again = prepared(folder, "model.num_queries=99", resume=True)
    assert Path(again.config).read_text() == text
    assert load(again.config, again.overrides).model.num_queries == 99


def test_other_processes_get_the_same_without_writing(tmp_path):
    folder = written("coco", tmp_path / "data")
    other = prepared(folder, write=False, processes=2)
    assert not (tmp_path / "output" / "data").exists()
    main = prepared(folder, processes=2)
    one, two = (load(x.config, x.overrides) for x in (main, other))
    assert Path(two.train.output_dir).resolve() == Path(one.train.output_dir)
    two.train.output_dir = one.train.output_dir
    assert one == two


def test_keys_say_what_arguments_say():
    said = ["a=1", "dataloader.own.folder=.", "dataloader.own.split=0.7", "b=2"]
    request, others = request_of(said)
    assert others == ["a=1", "b=2"]
    assert request == Request(Path("."), [0.7])
    said = ["voc_boxes=edges", "difficult=drop", "classes=[cat,'a dog']"]
    request, _ = request_of([f"dataloader.own.{x}" for x in ("folder=.", *said)])
    assert request.options == Options(["cat", "a dog"], "edges", "drop")
    with pytest.raises(ConfigError, match="give a list of names"):
        request_of(["dataloader.own.folder=.", "dataloader.own.classes=cat"])
    with pytest.raises(ConfigError, match="voc_boxes is 'inclusive', not one of auto"):
        request_of(["dataloader.own.folder=.", "dataloader.own.voc_boxes=inclusive"])
    shares, _ = request_of(["dataloader.own.folder=.", "dataloader.own.split=[0.6,0.2]"])
    assert shares.split == [0.6, 0.2]
    assert request_of(["a=1"]) == (None, ["a=1"])
    with pytest.raises(ConfigError, match=r"unknown config key 'dataloader.own.splits'"):
        request_of(["dataloader.own.splits=0.7"])
    with pytest.raises(ConfigError, match="give the share of train"):
        request_of(["dataloader.own.folder=.", "dataloader.own.split=half"])
    with pytest.raises(ConfigError, match="give the share of train"):
        request_of(["dataloader.own.folder=.", "dataloader.own.split=1.5"])
