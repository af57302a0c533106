"""Models out of checkpoints: rebuilt from what these keep, and from nothing else."""

import copy

import pytest
import torch
import yaml
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn

import ms_detr
from ms_detr.config import config_folder, describe, load
from ms_detr.engine.archive import read_checkpoint, write_checkpoint
from ms_detr.engine.rebuild import READ, read_config
from ms_detr.errors import CheckpointError, ConfigError
from tests.engine.standin import CONFIG
from tests.engine.test_predict import KEYS

CLASSES = [f"class {number}" for number in range(6)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model as its config builds it, and a checkpoint of it as a run writes them."""
    cfg = load("demo/ms_detr.py", KEYS)
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    path = tmp_path_factory.mktemp("trained") / "model_final.pth"
    content = {"model": model.state_dict(), "classes": CLASSES, "iteration": 9, "optimizer": {}}
    write_checkpoint(path, {**content, "config": describe("demo/ms_detr.py", KEYS, cfg)})
    return model, path


def test_a_checkpoint_is_enough(trained):
    model, path = trained
    found = ms_detr.load_model(path)
    assert found.class_names == tuple(CLASSES)
    assert not found.training
    images = torch.rand(1, 3, 64, 96)
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    found = found.cpu()
    with torch.no_grad():
        ours, theirs = (x.forward_tensors(images, mask)["decoder"] for x in (found, model))
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.boxes, theirs.boxes)
    assert found.usage.batch_size == 8 and found.usage.mapper.image_format == "RGB"
    assert not found.usage.mapper.is_train
    assert copy.deepcopy(found).class_names == found.class_names


SHIPPED = sorted(str(path.relative_to(config_folder())) for path in config_folder().rglob("*.py"))


@pytest.mark.parametrize("config", SHIPPED)
def test_every_shipped_config_comes_out_as_it_went_in(config, tmp_path):
    cfg = load(config)
    write_checkpoint(tmp_path / "a.pth", {"model": {}, "config": describe(config, [], cfg)})
    found = read_config(tmp_path / "a.pth")
    for key in READ:
        before, after = (OmegaConf.select(x, key) for x in (cfg, found))
        if OmegaConf.is_config(before):
            before, after = (OmegaConf.to_container(x, resolve=True) for x in (before, after))
        assert after == before


def changed(path, tmp_path, edit):
    """The checkpoint with a config that somebody has edited."""
    content = read_checkpoint(path)
    text = yaml.safe_load(content["config"]["text"])
    edit(text)
    content["config"]["text"] = yaml.safe_dump(text)
    write_checkpoint(tmp_path / "changed.pth", content)
    return tmp_path / "changed.pth"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.nn.modules.os.system",
        "torch.nn.modules.module.torch.load",
        "torch.nn.functional.relu",  # a function of theirs
        "torch.nn.Module.register_forward_hook",
        "torch.nn",
        "torch.load",
        "torch.nnx.Linear",
        "detectron2.modeling.build_model",
        "detectron2.modeling.backbone.resnet.os.system",
        "detectron2.utils.env.setup_custom_environment",
        "ms_detr.files.write_text",
        "ms_detr.cli.main",
        "ms_detr.engine.launch",
        "ms_detr.backbones._import_timm",
        "ms_detr.backbones.OmegaConf",  # imported there
        "ms_detr.modeling.nothing",
        "ms_detr.modeling..Decoder",
        "${model.postprocess._target_}.py",
        "",
        7,
        None,
        {"_target_": "os.system", "command": "true"},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["model", "mapper"])
def test_nothing_else_is_built(trained, tmp_path, target, place):
    def edit(text):
        node = text["model"]["backbone"] if place == "model" else text["dataloader"]["test"]
        node = node if place == "model" else node["mapper"]
        node["_target_"] = target

    path = changed(trained[1], tmp_path, edit)
    with pytest.raises(CheckpointError, match=r"changed\.pth: its config can't be used") as error:
        ms_detr.load_model(path)
    assert str(error.value).endswith("was trained with: load_model(weights, cfg)")


@pytest.mark.parametrize(
    "value",
    [
        "${oc.create:'{_target_: os.system, command: true}'}",
        "${oc.decode:'{_target_: os.system, command: true}'}",
        "${train.trap}",
        "\\${train.trap}",
    ],
)
def test_links_bring_nothing_along(trained, tmp_path, value):
    def edit(text):
        text["model"]["postprocess"] = value
        text["train"]["trap"] = {"_target_": "os.system", "command": "true"}

    with pytest.raises(CheckpointError, match="can't be used"):
        ms_detr.load_model(changed(trained[1], tmp_path, edit))


def test_no_other_weights_are_fetched(tmp_path):
    config = "ms_detr/ms_detr_pp_swin_t_300q_12ep.py"
    cfg = load(config, ["model.backbone.pretrained=true"])
    write_checkpoint(tmp_path / "a.pth", {"model": {}, "config": describe(config, [], cfg)})
    assert read_config(tmp_path / "a.pth").model.backbone.pretrained is False


def test_configs_as_they_were_written_before(tmp_path):
    cfg = load("demo/family/ms_detr_hybrid.py", ["model.criterion.terms.o2m=null", *KEYS])
    expected = instantiate(cfg.model).state_dict()

    def edit(text):
        del text["model"]["decoder"]["sources"]
        hybrid = text["model"]["groups"]["hybrid"]
        hybrid["rows"] = hybrid.pop("num_queries")
        text["model"]["_target_"] = "ms_detr.meta_arch.MSDETR"

    config = describe("demo/family/ms_detr_hybrid.py", [], cfg)
    write_checkpoint(tmp_path / "a.pth", {"model": expected, "config": config})
    found = ms_detr.load_model(changed(tmp_path / "a.pth", tmp_path, edit)).state_dict()
    assert found.keys() == expected.keys()


class Own(nn.Identity):
    """A class of somebody's project."""


def test_what_is_of_somebodys_own_needs_the_config(tmp_path):
    cfg = load("demo/ms_detr.py", [*KEYS, f"model.backbone._target_={__name__}.Own"])
    path = tmp_path / "own.pth"
    write_checkpoint(path, {"model": {}, "config": describe("own.py", [], cfg)})
    with pytest.raises(CheckpointError, match=r"test_load_model\.Own' is no part that a check"):
        ms_detr.load_model(path)


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(1)},
        {"model": {"weight": torch.zeros(1)}, "config": None},
        {"model": {"weight": torch.zeros(1)}, "config": {"text": 3}},
    ],
)
def test_weights_alone_need_the_config(tmp_path, content):
    write_checkpoint(tmp_path / "plain.pth", content)
    with pytest.raises(CheckpointError, match=r"plain\.pth keeps no config, only weights: give"):
        ms_detr.load_model(tmp_path / "plain.pth")


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth not found"):
        ms_detr.load_model("nothing.pth")


def test_a_run_in_python(data, tmp_path):
    """Trained, evaluated and loaded from the package's top, without a command line."""
    cfg = load(CONFIG, [f"train.output_dir={tmp_path}/out", "train.max_iter=2"])
    cfg.dataloader.train.dataset.name = data.name
    cfg.dataloader.train.dataset.images = str(data / "images")
    cfg.dataloader.train.dataset.annotations = str(data / "annotations.json")
    trained = ms_detr.train(cfg)
    weights = tmp_path / "out" / "model_final.pth"
    alone = ms_detr.evaluate(cfg, str(weights))
    assert alone["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)
    assert ms_detr.evaluate(cfg)["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)
    with pytest.raises(ConfigError, match="continue it with --resume"):
        ms_detr.train(cfg)
    cfg.train.max_iter = 3
    ms_detr.train(cfg, resume=True)
    content = read_checkpoint(weights)
    assert content["iteration"] == 2 and content["config"]["file"] == ""
    assert "made in Python" in (tmp_path / "out" / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match="standin.Detector' is no part"):
        ms_detr.load_model(weights)
    model = ms_detr.load_model(weights, cfg)
    with pytest.raises(ConfigError, match=r"predict\(model, images, cfg\)"):
        ms_detr.predict(model, "a.png")
    assert len(ms_detr.predict(model, str(data / "images" / "001.png"), cfg)) == 3


def test_the_top_has_what_it_lists():
    assert all(callable(getattr(ms_detr, name)) for name in ms_detr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        ms_detr.tarin  # noqa: B018


def edited(trained, tmp_path, edit):
    """A checkpoint whose config somebody has edited."""
    content = read_checkpoint(trained[1])
    tree = yaml.safe_load(content["config"]["text"])
    edit(tree)
    content["config"]["text"] = yaml.safe_dump(tree)
    write_checkpoint(tmp_path / "edited.pth", content)
    return tmp_path / "edited.pth"


TIMM = {"_target_": "ms_detr.backbones.TimmBackbone", "name": "resnet18", "pretrained": True}


@pytest.mark.parametrize(
    "link",
    [
        "${oc.env:HOME}",
        "http://host/${oc.env:HOME}.pth",
        "${oc.create:{_target_:${cls},pretrained:true}}",
        "${oc.decode:1}",
        "${extra_queries:${oc.env:HOME}}",
        "${${name}}",
        "${ model.name }",
    ],
)
def test_links_of_a_checkpoint_compute_nothing(trained, tmp_path, link):
    """They would tell its author about this machine, or make what the rooms don't have."""

    def edit(tree):
        tree["cls"] = TIMM["_target_"]
        tree["model"]["pixel_mean"] = link

    with pytest.raises(CheckpointError, match="is more than a link to another key"):
        read_config(edited(trained, tmp_path, edit))


def test_a_backbone_behind_a_link_reads_no_other_weights(trained, tmp_path):
    def edit(tree):
        tree["elsewhere"] = {**TIMM, "options": {"checkpoint_path": "/etc/passwd"}}
        tree["model"]["backbone"] = "${elsewhere}"

    backbone = read_config(edited(trained, tmp_path, edit)).model.backbone
    assert backbone.pretrained is False and backbone.options.checkpoint_path is None


def test_a_group_of_no_room_is_asked_nothing(trained, tmp_path, monkeypatch):
    """Not even imported, to be asked how many queries it takes."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def edit(tree):
        tree["model"]["groups"]["x"] = {"_target_": "trap.Group"}
        tree["model"]["query_initializer"]["extra_queries"] = "${extra_queries:${model.groups}}"

    with pytest.raises(CheckpointError, match="'Foreign' object has no attribute"):
        read_config(edited(trained, tmp_path, edit))


def test_a_few_lines_of_aliases_are_no_endless_config(trained, tmp_path):
    content = read_checkpoint(trained[1])
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    content["config"]["text"] = "\n".join([*lines, content["config"]["text"]])
    write_checkpoint(tmp_path / "bomb.pth", content)
    with pytest.raises(CheckpointError, match="it is too large"):
        read_config(tmp_path / "bomb.pth")


@pytest.mark.parametrize("size", [0.5, "x", None])
def test_a_batch_size_is_a_number(trained, tmp_path, size):
    def edit(tree):
        tree["dataloader"]["test"]["batch_size"] = size

    with pytest.raises(CheckpointError, match="batch_size is no number"):
        read_config(edited(trained, tmp_path, edit))


@pytest.mark.parametrize("classes", [[[1], [2]], [1, 2, 3]])
def test_names_of_classes_are_texts(trained, tmp_path, classes):
    write_checkpoint(tmp_path / "a.pth", {**read_checkpoint(trained[1]), "classes": classes})
    with pytest.raises(CheckpointError, match="the names of its classes are no texts"):
        ms_detr.load_model(tmp_path / "a.pth")


def test_a_config_may_be_named_by_its_file(trained, tmp_path):
    lines = ["from ms_detr.config import load", f"_base = load('demo/ms_detr.py', {[*KEYS]!r})"]
    lines += ["model, dataloader, train = _base.model, _base.dataloader, _base.train"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    found = ms_detr.load_model(trained[1], tmp_path / "mine.py")
    assert found.class_names == tuple(CLASSES)
