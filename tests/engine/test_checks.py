"""Configs that can't be run: one line that names the key, before anything is loaded."""

import json
import math

import pytest
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.data import coco_dataset
from ms_detr.engine import train as run
from ms_detr.engine.building import build
from ms_detr.engine.checks import OPTIONAL, check_config
from ms_detr.errors import short_message
from ms_detr.recipes import training
from tests.engine.standin import CONFIG, overrides, write_dataset


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.output_dir=", "train.output_dir must be the name of a folder, got ''"),
        ("train.seed=-1", "train.seed must be a whole number from 0 .* got -1"),
        ("train.seed=null", "train.seed must be .* got null"),
        ("train.threads=0", "train.threads must be at least 1"),
        ("train.log_period=0", "train.log_period must be at least 1"),
        ("train.log_period=-2", "train.log_period must be at least 1"),
        ("train.clip_grad_norm=-1", "train.clip_grad_norm must be .* or null for no clipping"),
        ("train.clip_grad_norm=0", "train.clip_grad_norm must be"),
        ("train.epochs=-1", "train.epochs must be"),
        ("train.eval_epochs=-1", "train.eval_epochs must be"),
        ("train.checkpoint_epochs=nan", "train.checkpoint_epochs must be"),
        ("train.max_iter=1.5", "train.max_iter must be a whole number"),
        ("+train.timeout_minutes=0", "train.timeout_minutes must be a number above 0 and at"),
        ("+train.timeout_minutes=1000001", "train.timeout_minutes must be .* at most 1000000, got"),
        ("+train.best=7", "train.best must be a metric such as bbox/AP .* got 7"),
        ("+train.keep_every_epochs=-1", "train.keep_every_epochs must be a number of at least 0"),
        ("+train.amp=bfloat16", "train.amp must have keys of its own, such as enabled, got 'bfl"),
        ("+train.accumulation=4", "nothing reads train.accumulation; did you mean train.accumul"),
        ("+train.ema_decay=0.9", "nothing reads train.ema_decay; did you mean train.ema.decay"),
        ("+train.amp={enable: true}", "nothing reads train.amp.enable; did you mean train.amp.en"),
        ("train.device=gpu", "train.device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("optimizer.lr=-1", "optimizer.lr must be"),
        ("optimizer.lr=null", "optimizer.lr must be"),
        ("optimizer.weight_decay=-1", "optimizer can't be built .* Invalid weight_decay"),
        ("lr_multiplier=null", "lr_multiplier is null"),
        ("lr_multiplier.num_updates=null", "lr_multiplier can't be built"),
        ("model=null", "model is null"),
        ("model.num_classes=-1", "model can't be built .*negative dimension"),
        ("model.dropout=2", "model can't be built .* ValueError: dropout prob"),
        ("+model.extra=1", "model can't be built .* unexpected keyword"),
        ("model.dropout=${model.gone}", "model.gone"),
        ("dataloader.train.num_workers=-1", "dataloader.train can't be built .*num_workers"),
        ("dataloader.test.mapper.augmentations=null", "mapper.augmentations must be a list"),
        ("dataloader.train.dataset.name=null", "dataset.name is None"),
        ("train.output_dir=/dev/null/x", "train.output_dir /dev/null/x can't be written to: Not a"),
    ],
)
def test_a_wrong_value_is_one_line(train, override, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        train("out", override)
    shown = short_message(error.value)
    assert shown is not None and "\n" not in shown


@pytest.mark.parametrize("more", [[], ["+train.amp=null", "+train.ema=null"]])
def test_keys_that_a_config_lacks_have_the_recipes_values(data, tmp_path, more):
    cfg = load(CONFIG, overrides(data, tmp_path, "~train.report", "~train.pictures", *more))
    check_config(cfg)
    recipe = training.run()
    for key, (default, _, _) in OPTIONAL.items():
        found = (OmegaConf.select(node, key) for node in (cfg.train, recipe))
        assert list(found) == [default] * 2


def test_a_key_of_ones_own_is_left_alone(train, tmp_path):
    """It may be what other keys are linked to."""
    train("out", "+train.my_batch=4", "dataloader.train.total_batch_size=${train.my_batch}")
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_a_link_to_what_was_dropped():
    cfg = load("demo/family/hybrid.py", ["~model.feedforward_dim"])
    message = r"model\.encoder\.layer\.ffn\.feedforward_dim is a link that leads nowhere \(.*feedf"
    with pytest.raises(ValueError, match=message) as error:
        build(cfg, "model")
    assert short_message(error.value) == str(error.value)


def test_output_folder_that_is_a_file(train, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match=r"train\.output_dir .*out can't be written to: File exists"):
        train("out")
    assert (tmp_path / "out").read_text() == "mine"


def test_no_clipping_is_fine(train, tmp_path):
    train("out", "train.clip_grad_norm=null", "train.max_iter=1")


@pytest.fixture
def run_on(data, tmp_path):
    """Run with a test dataset of its own beside the training dataset; weights are missing."""

    def call(images, annotations):
        name = f"test_of_{tmp_path.name}"
        opts = overrides(data, tmp_path / "out", "train.init_checkpoint=missing.pth")
        cfg = load(CONFIG, opts)
        cfg.dataloader.test.dataset = dict(cfg.dataloader.train.dataset)
        cfg.dataloader.train.dataset = L(coco_dataset)(
            name=name, images=str(images), annotations=str(annotations)
        )
        return run(cfg)

    return call


def test_classes_must_be_the_same(run_on, data, tmp_path):
    write_dataset(tmp_path / "other")
    annotations = tmp_path / "other" / "annotations.json"
    content = json.loads(annotations.read_text())
    content["categories"][1]["name"] = "round"
    annotations.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"other/annot.*json lacks 'bar'; .* lacks 'round'"
    ) as error:
        run_on(tmp_path / "other" / "images", annotations)
    assert short_message(error.value) is not None


@pytest.fixture
def evaluate_on(data, tmp_path):
    """Train an iteration and evaluate on a validation file of that content."""

    def call(content, encoding="utf-8", folder="out"):
        path = tmp_path / "val.json"
        path.write_text(json.dumps(content), encoding=encoding)
        opts = overrides(data, tmp_path / folder, "train.max_iter=1")
        cfg = load(CONFIG, opts)
        cfg.dataloader.test.dataset = L(coco_dataset)(
            name=f"val_{tmp_path.name}", images=str(data / "images"), annotations=str(path)
        )
        DatasetCatalog.pop(f"val_{tmp_path.name}", None)
        MetadataCatalog.pop(f"val_{tmp_path.name}", None)
        return run(cfg)

    return call


def test_a_validation_file_of_some_categories(evaluate_on, data, tmp_path):
    """It is evaluated by name, whatever its ids: as if it listed all."""
    content = json.loads((data / "annotations.json").read_text())
    bar = content["categories"][1]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == bar["id"]]
    expected = evaluate_on(content)["bbox"]
    content["categories"] = [{"id": 1, "name": "bar"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    results = evaluate_on(content, folder="part")["bbox"]
    assert results["AP"] == expected["AP"] and results["AP-bar"] == expected["AP-bar"]
    log = (tmp_path / "part" / "log.txt").read_text()
    assert f"{tmp_path / 'val.json'}: lacks the categories 'square', 1 of 2; their AP is nan" in log
    content["categories"] = [{"id": 1, "name": "disc"}]
    message = r"annotations\.json lacks 'disc'; .*val\.json lacks 'square', 'bar'"
    with pytest.raises(ValueError, match=message) as error:
        evaluate_on(content, folder="other")
    assert short_message(error.value) is not None


def test_detections_without_annotations(evaluate_on, data, tmp_path):
    """What the message about a file like COCO's test-dev advises."""
    content = json.loads((data / "annotations.json").read_text())
    del content["annotations"]
    with pytest.raises(ValueError, match=r'add "annotations": \[\] to a copy'):
        evaluate_on(content)
    results = evaluate_on({**content, "annotations": []})
    assert math.isnan(results["bbox"]["AP"])
    found = tmp_path / "out" / "evaluation" / "coco_instances_results.json"
    assert {"image_id", "category_id", "bbox", "score"} <= json.loads(found.read_text())[0].keys()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_evaluation_reads_what_training_reads(evaluate_on, data, encoding):
    content = json.loads((data / "annotations.json").read_text())
    assert not math.isnan(evaluate_on(content, encoding)["bbox"]["AP"])


def test_training_data_is_looked_for_before_the_weights(run_on, data):
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        run_on(data / "images", data / "gone.json")
    with pytest.raises(FileNotFoundError, match=r"checkpoint missing\.pth not found"):
        run_on(data / "images", data / "annotations.json")


@pytest.mark.parametrize("device", ["mps", "mps:0", "xpu", "meta", "vulkan"])
def test_devices_that_are_not_supported(train, device):
    with pytest.raises(ValueError, match=rf"got '{device}'; cpu and cuda are what ms_detr is made"):
        train("out", f"train.device={device}")
