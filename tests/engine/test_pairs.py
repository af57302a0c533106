"""Keys and arguments that say the same thing twice: none silently beats the other."""

import logging
import os
import sys

import pytest
import torch
from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf

from ms_detr import cli
from ms_detr.config import load
from ms_detr.data import coco_dataset
from ms_detr.engine import launch
from ms_detr.engine.building import build
from ms_detr.engine.device import prepare
from ms_detr.engine.pairs import WITH_MASKS, WITHOUT_MASKS, check_pairs, check_training
from ms_detr.errors import ConfigError
from ms_detr.recipes import dot_product, with_masks

CONFIG = "ms_detr/ms_detr_r50_300q_12ep.py"
MASKS = "ms_detr/ms_detr_masks_r50_300q_12ep.py"
PASTED = "co_detr/co_dino_r50_5scale_lsj_12ep.py"
WITHOUT_PASTE = ["dataloader.train.copy_paste=null", "dataloader.train.mapper.masks=false"]
SWIN = "ms_detr/ms_detr_pp_swin_t_300q_12ep.py"


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (CONFIG, ["dataloader.evaluator.dataset_name=x"], "evaluator.dataset_name 'x': set the fi"),
        (CONFIG, ["optimizer.params.base_lr=1.0"], r"optimizer\.lr is 0\.0002, and .*base_lr 1\.0"),
        (CONFIG, ["dataloader.masks=true"], "the model predicts no masks: set dataloader.masks=fa"),
        (MASKS, ["dataloader.masks=false"], "set dataloader.masks=true"),
        (MASKS, ["model.evaluate_head=atss"], "set dataloader.evaluator.masks=false to evaluate"),
        (MASKS, ["dataloader.train.dataset.masks=false"], r"train\.mapper\.masks is true and data"),
        (MASKS, ["dataloader.test.dataset.masks=false"], r"test\.mapper\.masks is true and data"),
        (
            PASTED,
            ["dataloader.train.mapper.masks=false"],
            r"train\.copy_paste needs masks, and dat",
        ),
        (PASTED, ["dataloader.train.dataset.masks=false"], r"train\.copy_paste needs masks, and d"),
    ],
)
def test_a_contradiction_names_both_keys(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        check_pairs(load(config, overrides))


def test_boxes_of_a_head_are_evaluated_as_advised():
    check_pairs(load(MASKS, ["model.evaluate_head=atss", "dataloader.evaluator.masks=false"]))


@pytest.mark.parametrize("name", [WITH_MASKS, WITHOUT_MASKS])
def test_the_configs_that_are_advised(name):
    """Whoever follows the one error's advice doesn't meet the other one."""
    check_pairs(load(name))
    assert (load(name).model.get("masks") is not None) == (name == WITH_MASKS)


def test_masks_are_added_as_advised():
    cfg = load("demo/ms_detr.py", ["dataloader.masks=true"])
    with pytest.raises(ConfigError, match=r"let yours call ms_detr\.recipes\.with_masks\(model\)$"):
        check_pairs(cfg)
    with_masks(cfg.model, dot_product(res2=48))
    check_pairs(cfg)
    assert build(cfg, "model").masks is not None


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (CONFIG, []),
        (MASKS, []),
        (SWIN, []),
        (CONFIG, ["dataloader.test.dataset.name=x", "optimizer.lr=1.0"]),
        (SWIN, ["model.backbone.pretrained=true", "train.init_checkpoint="]),
        (MASKS, ["dataloader.evaluator.masks=false"]),  # masks are trained, and not evaluated
        (PASTED, []),
        (PASTED, [*WITHOUT_PASTE, "dataloader.train.dataset.masks=false"]),
    ],
)
def test_what_agrees_is_fine(config, overrides):
    check_pairs(load(config, overrides))


def test_what_a_training_starts_from_does_not_matter_to_an_evaluation():
    cfg = load(SWIN, ["model.backbone.pretrained=true", "train.init_checkpoint=trained.pth"])
    check_pairs(cfg)
    with pytest.raises(ConfigError, match="takes timm's weights, and train.init_checkpoint="):
        check_training(cfg)


def test_a_config_that_sets_both_lengths():
    cfg = load(CONFIG)
    cfg.train.max_iter = 1000
    with pytest.raises(ValueError, match=r"train\.epochs=12\.0 and train\.max_iter=1000 both say"):
        check_pairs(cfg)


def test_evaluated_is_what_was_asked_for(train, tmp_path):
    train("out", "train.max_iter=1")
    weights = f"train.init_checkpoint={tmp_path}/out/model_final.pth"
    with pytest.raises(ValueError, match="--resume evaluates the last checkpoint, train.init_ch"):
        train("out", "--eval-only", "--resume", weights)
    with pytest.raises(ValueError, match="empty holds no checkpoint to evaluate: name the weights"):
        train("empty", "--eval-only", "--resume")
    log = tmp_path / "out" / "log.txt"
    assert "not read" not in log.read_text()
    train("out", "--resume", "train.max_iter=1", weights)
    assert "train.init_checkpoint is where a run starts: not read" in log.read_text()


def test_resuming_where_nothing_is_says_so(train, tmp_path):
    train("out", "--resume", "train.max_iter=1")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"nothing to resume: no checkpoint in {tmp_path}/out, starting at iteration 0" in log


def test_a_known_name_with_other_files(data):
    """The catalogs' files for that name, or those that are given: neither, unless they agree."""
    with pytest.raises(ValueError, match=r"'coco_2017_val' is taken: it stands for image_root"):
        coco_dataset("coco_2017_val", data / "images", data / "annotations.json")
    assert MetadataCatalog.get("coco_2017_val").json_file.endswith("instances_val2017.json")


@pytest.mark.parametrize(
    ("threads", "variable", "expected", "told"),
    [(2, "1", 2, True), (2, "2", 2, False), (2, None, 2, False), (None, "3", None, False)],
)
def test_threads_of_the_config_and_of_the_environment(
    monkeypatch, caplog, threads, variable, expected, told
):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr("ms_detr.engine.device.comm.get_local_size", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    caplog.set_level(logging.INFO)
    prepare(OmegaConf.create({"device": "cpu", "threads": threads, "seed": 0}))
    assert asked == ([] if expected is None else [expected])
    assert ("train.threads=2 is used, not OMP_NUM_THREADS=1" in caplog.text) == told


def test_one_device_for_several_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("ms_detr.engine.device.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"cuda:1 names one device, but .* train\.device=cuda$"):
        prepare(OmegaConf.create({"device": "cuda:1", "threads": None, "seed": 0}))


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"num_processes": 4}, "--num-gpus 4, but torchrun has started 2 of 4 processes here"),
        ({"num_machines": 1}, "--num-machines 1, but"),
        ({"machine_rank": 0}, "--machine-rank 0, but"),
        ({"dist_url": "tcp://a:1"}, "--dist-url tcp://a:1, but"),
    ],
)
def test_torchrun_has_the_last_word(monkeypatch, asked, problem):
    layout = {"RANK": 2, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 1}
    for name, value in layout.items():
        monkeypatch.setenv(name, str(value))
    module = sys.modules["ms_detr.engine.launch"]  # in its package the name is the function's
    with pytest.raises(ValueError, match=problem):
        launch(os.getpid, device="cpu", **asked)
    agreed = {"--num-gpus": 2, "--num-machines": 2, "--machine-rank": 1, "--dist-url": "auto"}
    module._expect_given(agreed, 4, 2)
    module._expect_given(dict.fromkeys(agreed), 4, 2)


def test_weights_are_given_once(capsys):
    words = ["visualize", "predictions", "--config-file", "demo/ms_detr.py", "--weights", "a.pth"]
    assert cli.main([*words, "--output", "out", "train.init_checkpoint=b.pth"]) == 2
    assert "'train.init_checkpoint=b.pth': give the weights' argument instead" in (
        capsys.readouterr().err
    )
