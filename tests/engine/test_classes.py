"""Weights and a dataset whose categories are numbered otherwise, or are others."""

import json
import logging
import re
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.data import OtherClassesError, coco_dataset
from ms_detr.engine import load_model, read_checkpoint
from ms_detr.engine import train as run
from ms_detr.engine.archive import write_checkpoint
from ms_detr.engine.building import build
from ms_detr.engine.start import _start
from ms_detr.evaluation import evaluate, read_results
from tests.engine.standin import CONFIG, overrides

SWAPPED = {3: "bar", 7: "square"}


def change(data, folder, edit):
    """The dataset under another name and in another folder, its annotation file edited."""
    shutil.copytree(data, folder)
    file = folder / "annotations.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return folder


def swap(content):
    """Number the same categories the other way round."""
    number = {name: key for key, name in SWAPPED.items()}
    names = {c["id"]: c["name"] for c in content["categories"]}
    content["categories"] = [{"id": key, "name": name} for key, name in SWAPPED.items()]
    for annotation in content["annotations"]:
        annotation["category_id"] = number[names[annotation["category_id"]]]


def of(folder):
    """Overrides that name another dataset."""
    keys = {"name": folder.name, "images": folder / "images"}
    keys["annotations"] = folder / "annotations.json"
    return [f'dataloader.train.dataset.{key}="{value}"' for key, value in keys.items()]


@pytest.fixture
def swapped(data, tmp_path):
    return change(data, tmp_path / f"swapped_{tmp_path.name}", swap)


def detections(folder, names):
    """What was found, by name of its class."""
    content = json.loads((folder / "evaluation" / "coco_instances_results.json").read_text())
    return [{**d, "category_id": names[d["category_id"]]} for d in content]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines]


def test_evaluated_by_name(train, swapped, tmp_path):
    trained = train("out", "train.max_iter=3")
    weights = f'train.init_checkpoint="{tmp_path}/out/model_final.pth"'
    alone = train("alone", "--eval-only", weights, *of(swapped))
    assert alone["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)
    ours = detections(tmp_path / "out", {3: "square", 7: "bar"})
    theirs = detections(tmp_path / "alone" / "eval_only", SWAPPED)
    assert ours == theirs and {d["category_id"] for d in ours} == {"square", "bar"}
    log = (tmp_path / "alone" / "eval_only" / "log.txt").read_text()
    assert "its classes are in the order of the weights, not of its ids" in log


def test_resumed_on_other_numbers_is_the_unbroken_run(train, swapped, tmp_path):
    train("whole", "train.checkpoint_epochs=1", "train.checkpoints_to_keep=9")
    (tmp_path / "moved").mkdir()
    shutil.copy(tmp_path / "whole" / "model_0000002.pth", tmp_path / "moved")
    train("moved", "--resume", *of(swapped))
    # Digit by digit: nothing but the file's numbers is another.
    assert losses(tmp_path / "moved")[:6] == losses(tmp_path / "whole")[3:9]
    whole, moved = (read_checkpoint(tmp_path / x / "model_final.pth") for x in ("whole", "moved"))
    assert all(torch.equal(whole["model"][n], moved["model"][n]) for n in whole["model"])
    for one, other in zip(*(x["optimizer"]["state"].values() for x in (whole, moved)), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert moved["classes"] == whole["classes"] == ["square", "bar"]
    assert "has changed since" not in (tmp_path / "moved" / "log.txt").read_text()


def test_fine_tuned_by_name(train, swapped, tmp_path):
    train("out", "train.max_iter=3")
    weights = f'train.init_checkpoint="{tmp_path}/out/model_final.pth"'
    train("same", weights, "train.max_iter=2")
    train("moved", weights, "train.max_iter=2", *of(swapped))
    assert losses(tmp_path / "moved") == losses(tmp_path / "same")


@pytest.mark.parametrize("how", ["--eval-only", "--resume", "start"])
def test_other_names_are_an_error(train, data, tmp_path, how):
    def rename(content):
        content["categories"][1]["name"] = "disc"

    train("out", "train.max_iter=1")
    other = change(data, tmp_path / f"other_{tmp_path.name}", rename)
    flags = [how] if how.startswith("--") else []
    weights = (
        [] if how == "--resume" else [f'train.init_checkpoint="{tmp_path}/out/model_best.pth"']
    )
    folder = "out" if how == "--resume" else "new"
    message = r"\.pth: dataset '.*': 'disc' only in the dataset, 'bar' only in the weights"
    message = message.replace("': ", "' has other classes than the weights: ", 1)
    with pytest.raises(ValueError, match=message) as error:
        train(folder, *flags, *weights, *of(other))
    advised = "; train.fine_tune=true starts a training from what fits" in str(error.value)
    assert advised == (how == "start")


def test_other_function_of_the_dataset(train, data, swapped, tmp_path, caplog, monkeypatch):
    """One that takes no order of classes: fine where it has the right one."""
    train("out", "train.max_iter=1")
    weights = f'train.init_checkpoint="{tmp_path}/out/model_final.pth"'
    keys = ["dataloader.train.dataset", weights, "--eval-only"]
    own = f"{keys[0]}._target_=tests.engine.test_classes.without_classes"
    assert train("same", own, *keys[1:])["bbox"]
    with pytest.raises(ValueError, match=r"order 'bar', 'square', the weights .*'square', 'bar'"):
        train("moved", own, *keys[1:], *of(swapped))
    monkeypatch.setattr(logging.getLogger("ms_detr"), "propagate", True)
    cfg = load(CONFIG, overrides(data, tmp_path / "loaded"))
    load_model(tmp_path / "out" / "model_final.pth", cfg)
    assert "no argument 'classes'" not in caplog.text
    cfg.dataloader.test.dataset._target_ = without_classes
    load_model(tmp_path / "out" / "model_final.pth", cfg)
    (told,) = [message for message in caplog.messages if "no argument 'classes'" in message]
    assert told.startswith("the function of dataloader.test.dataset and dataloader.train.dataset")
    assert told.endswith("model_final.pth, which is square, bar")


def without_classes(name, images, annotations):
    return coco_dataset(name, images, annotations)


def test_weights_without_names_are_taken_as_they_are(train, swapped, tmp_path):
    train("out", "train.max_iter=1")
    state = read_checkpoint(tmp_path / "out" / "model_final.pth")["model"]
    torch.save({"model": state}, tmp_path / "plain.pth")
    weights = f'train.init_checkpoint="{tmp_path}/plain.pth"'
    train("alone", "--eval-only", weights, *of(swapped))
    assert MetadataCatalog.get(swapped.name).thing_classes == ["bar", "square"]


def test_loaded_model_and_the_data_of_its_config(data, swapped, train, tmp_path):
    trained = train("out", "train.max_iter=3")
    cfg = load(CONFIG, overrides(data, tmp_path / "loaded", *of(swapped)))
    model = load_model(tmp_path / "out" / "model_final.pth", cfg)
    loader, evaluator = build(cfg, "dataloader.test"), build(cfg, "dataloader.evaluator")
    results = evaluate(model, loader, evaluator)
    assert results["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)
    assert MetadataCatalog.get(swapped.name).thing_classes == ["square", "bar"]
    assert DatasetCatalog.get(swapped.name)[1]["annotations"][0]["category_id"] == 0


@pytest.mark.slow
def test_real_model_with_label_embeddings_resumes_by_name(demo_dataset, tmp_path):
    """Denoising draws labels at random, two stages score tokens by class: still digit by digit."""

    def renumber(content):
        count = len(content["categories"])
        content["categories"] = [{**c, "id": count + 1 - c["id"]} for c in content["categories"]]
        for annotation in content["annotations"]:
            annotation["category_id"] = count + 1 - annotation["category_id"]

    small = ["model.encoder.num_layers=1", "model.decoder.num_layers=1", "model.num_queries=20"]
    small += ["train.device=cpu", "train.max_iter=4", "train.log_period=1", "train.threads=1"]
    small += ["dataloader.train.total_batch_size=2", "train.checkpoint_epochs=0.1667"]
    small += ["train.checkpoints_to_keep=9"]
    (tmp_path / "moved").mkdir()
    for output in ("whole", "moved"):
        root = demo_dataset
        if output == "moved":
            root = tmp_path / "renumbered"
            shutil.copytree(demo_dataset, root)
            for split in ("train", "val"):
                file = root / "annotations" / f"{split}.json"
                content = json.loads(file.read_text())
                renumber(content)
                file.write_text(json.dumps(content))
            shutil.copy(tmp_path / "whole" / "model_0000001.pth", tmp_path / "moved")
        data = [
            f"dataloader.{loader}.dataset.{key}={value}"
            for loader, split in (("train", "train"), ("test", "val"))
            for key, value in (
                ("name", f"labels_{output}_{split}"),
                ("images", root / split),
                ("annotations", root / "annotations" / f"{split}.json"),
            )
        ]
        opts = [*small, *data, f"train.output_dir={tmp_path / output}"]
        cfg = load("demo/family/ms_detr_dino.py", opts)
        run(cfg, resume=output == "moved")
    whole, moved = losses(tmp_path / "whole"), losses(tmp_path / "moved")
    assert moved[:2] == whole[2:4] and "denoising/loss" in moved[0]
    ap = [read_results(tmp_path / x / "evaluation")["bbox"] for x in ("whole", "moved")]
    assert ap[0] == pytest.approx(ap[1], nan_ok=True)


def fewer(content):
    content["images"] = content["images"][:8]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]


def moved_box(content):
    content["annotations"][5]["bbox"][0] += 1


def other_image(content):
    content["images"][2]["id"] = 100
    for annotation in content["annotations"]:
        if annotation["image_id"] == 2:
            annotation["image_id"] = 100


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (fewer, "8 images instead of 12, 14 annotations instead of 22"),
        (moved_box, "other boxes or classes"),
        (other_image, "other ids, names or sizes of images"),
    ],
)
def test_changed_data_are_named_on_resuming(train, data, tmp_path, edit, told):
    train("out", "train.max_iter=2")
    best = read_checkpoint(tmp_path / "out" / "model_best.pth")
    changed = change(data, tmp_path / f"{edit.__name__}_{tmp_path.name}", edit)
    train("out", "--resume", "train.max_iter=3", *of(changed))
    log = (tmp_path / "out" / "log.txt").read_text()
    pattern = rf"dataloader.train.dataset has changed since .*model_final\.pth was written: {told}"
    assert len(re.findall(pattern, log)) == 1
    assert log.count("dataloader.test.dataset has changed since") == 1
    # The AP of other images is none to be beaten.
    assert read_checkpoint(tmp_path / "out" / "model_best.pth")["iteration"] == 2
    assert best["iteration"] == 1
    train("out", "--resume", "train.max_iter=4", *of(changed))
    assert (tmp_path / "out" / "log.txt").read_text().count("has changed since") == 2


def test_checkpoints_without_fingerprints_resume(train, tmp_path):
    """As they were written before there were any."""
    train("out", "train.max_iter=2")
    path = tmp_path / "out" / "model_final.pth"
    content = read_checkpoint(path)
    assert content["datasets"]["train"]["images"] == 12
    del content["datasets"]
    torch.save(content, path)
    train("out", "--resume", "train.max_iter=3")
    assert "has changed since" not in (tmp_path / "out" / "log.txt").read_text()


def test_names_that_weights_have_twice_match_nothing(tmp_path, caplog):
    """Earlier versions kept them so; a dataset's are told apart by their ids."""
    path = tmp_path / "old.pth"
    write_checkpoint(path, {"model": {}, "classes": ["cell", "cell", "dog"]})
    assert _start(str(path)).classes == []
    assert "can't be matched by name" in caplog.text
    write_checkpoint(path, {"model": {}, "classes": ["cell", "dog"]})
    assert _start(str(path)).classes == ["cell", "dog"]


def test_other_names_in_python_are_an_error(train, data, tmp_path):
    """Where the test dataset has a node of its own, as in the shipped configs."""

    def rename(content):
        content["categories"][1]["name"] = "disc"

    train("out", "train.max_iter=1")
    other = change(data, tmp_path / f"other_{tmp_path.name}", rename)
    cfg = load(CONFIG, overrides(data, tmp_path / "none", *of(other)))
    cfg.dataloader.test.dataset = OmegaConf.create(
        OmegaConf.to_container(cfg.dataloader.train.dataset), flags={"allow_objects": True}
    )
    load_model(tmp_path / "out" / "model_final.pth", cfg)
    with pytest.raises(OtherClassesError, match="'disc' only in the dataset, 'bar' only in the"):
        build(cfg, "dataloader.test")
