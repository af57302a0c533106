"""Backbones of Detectron2's model zoo: as Detectron2 loads them, and as their images have to be."""

import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.utils.file_io import Detectron2Handler
from torch import nn

from ms_detr.backbones import TimmBackbone
from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.engine import load_weights
from ms_detr.engine.checks import check_config
from ms_detr.engine.pairs import check_pairs
from ms_detr.engine.zoo import MSRA, TORCHVISION
from ms_detr.errors import CheckpointError, ConfigError, SystemLimitError

CONFIG = "deformable_detr/deformable_detr_r50_300q_12ep.py"
BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean"}
NORM["running_var"] = "running_var"


def caffe2(name):
    """The name that Caffe2 gives a tensor of Detectron2's ResNet, from its documentation."""
    place, _, end = name.rpartition(".")
    parts = place.removesuffix(".norm").split(".")
    start = "conv1" if parts[0] == "stem" else "_".join([*parts[:-1], BRANCHES[parts[-1]]])
    if not place.endswith(".norm"):
        return f"{start}_w"
    return f"{'res_conv1' if parts[0] == 'stem' else start}_bn_{NORM[end]}"


def theirs(stride_in_1x1, width=8, blocks=(2, 1, 11, 2)):
    """A narrow ResNet of Detectron2's own parts, named as one of any depth."""
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            count,
            stride_per_block=[1 if number == 0 else 2, *[1] * (count - 1)],
            in_channels=width * 2**number,
            bottleneck_channels=width * 2**number // 2,
            out_channels=width * 2 ** (number + 1),
            norm="FrozenBN",
            stride_in_1x1=stride_in_1x1,
        )
        for number, count in enumerate(blocks)
    ]
    return ResNet(BasicStem(3, width, "FrozenBN"), stages, out_features=["res3", "res4", "res5"])


class Model(nn.Module):
    """A backbone that prepares images as MSRA's weights, or torchvision's, want them."""

    def __init__(self, msra=True, backbone=None, **values):
        super().__init__()
        wanted = MSRA if msra else TORCHVISION
        self.backbone = backbone or theirs(stride_in_1x1=msra)
        for name, value in (dict(pixel_mean=wanted.mean, pixel_std=wanted.std) | values).items():
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)


def random_arrays():
    """Values by Detectron2's names; norms that can't be mixed up."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, tensor in theirs(True).state_dict().items():
        scale = (2 / np.prod(tensor.shape[1:])) ** 0.5 if tensor.ndim > 1 else 0.2
        shift = 1.0 if name.endswith(("norm.weight", "running_var")) else 0.0
        arrays[name] = (rng.normal(size=tuple(tensor.shape)) * scale + shift).astype(np.float32)
        if name.endswith("running_var"):
            arrays[name] = np.abs(arrays[name]) + np.float32(0.1)
    return arrays


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The three forms: MSRA's as Detectron2 has it, Detectron1's, torchvision's converted."""
    folder = tmp_path_factory.mktemp("zoo")
    arrays = random_arrays()
    msra = {caffe2(name): array for name, array in arrays.items()}
    unused = {"conv1_b": np.ones(8, np.float32), "fc1000_w": np.ones((9, 128), np.float32)}
    unused["fc1000_b"] = np.ones(9, np.float32)
    old = {name.replace("gamma", "s").replace("beta", "b"): array for name, array in msra.items()}
    old |= unused | {"conv1_w_momentum": np.ones(3, np.float32)}
    converted = {**arrays, "stem.fc.weight": np.ones((9, 128), np.float32)}
    converted["stem.conv1.norm.num_batches_tracked"] = np.array(0)
    heuristics = {"matching_heuristics": True}
    contents = {
        "msra.pkl": {"model": {**msra, **unused}, "__author__": "Caffe2", **heuristics},
        "old.pkl": {"blobs": old},
        "torchvision.pkl": {"model": converted, "__author__": "torchvision", **heuristics},
    }
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


@pytest.mark.parametrize(
    ("name", "msra"), [("msra.pkl", True), ("old.pkl", True), ("torchvision.pkl", False)]
)
@torch.no_grad()
def test_outputs_are_those_of_detectron2s_own_loader(files, name, msra):
    expected = theirs(stride_in_1x1=msra)
    DetectionCheckpointer(expected).load(str(files / name))
    model = Model(msra=msra)
    assert load_weights(model, str(files / name)) is False
    image = torch.randn(1, 3, 64, 64)
    ours, detectron2s = model.eval().backbone(image), expected.eval()(image)
    for key in ("res3", "res4", "res5"):
        assert torch.equal(ours[key], detectron2s[key])
    assert 0.01 < ours["res5"].std() < 1000  # there is something to compare
    state = model.backbone.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in expected.state_dict().items())


@torch.no_grad()
def test_where_the_stride_is_matters(files):
    """Same names, same shapes, other features: what the check is for."""
    one, other = theirs(True), theirs(False)
    for model in (one, other):
        DetectionCheckpointer(model).load(str(files / "msra.pkl"))
    image = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(one.eval()(image)["res3"], other.eval()(image)["res3"], atol=0.1)


@pytest.mark.parametrize(
    "values",
    [dict(msra=False), dict(pixel_std=(57.375, 57.12, 58.395)), dict(pixel_mean=(0.0, 0, 0))],
)
def test_images_that_msras_weights_do_not_fit(files, values):
    model = Model(**values)
    before = model.backbone.stem.conv1.weight.clone()
    with pytest.raises(CheckpointError, match=r"BGR images .*: model\.pixel_mean=\[103") as error:
        load_weights(model, str(files / "msra.pkl"))
    assert torch.equal(model.backbone.stem.conv1.weight, before)
    assert str(error.value).endswith(" +model.backbone.stride_in_1x1=true")


def test_images_that_torchvisions_weights_do_not_fit(files, caplog):
    """They may have been trained on, so it is no error."""
    source = str(files / "torchvision.pkl")
    load_weights(Model(msra=False), source)
    assert "was trained on" not in caplog.text
    load_weights(Model(msra=True), source)
    assert "was trained on RGB images" in caplog.text
    assert "model.pixel_std=[58.395,57.12,57.375]" in caplog.text


def test_the_advice_is_a_config_that_fits():
    """What the message says to override, on a shipped config."""
    overrides = MSRA.overrides().split(" ")
    cfg = load(CONFIG, overrides)
    check_config(cfg)
    check_pairs(cfg)
    backbone = instantiate(cfg.model.backbone)
    mean, std = list(cfg.model.pixel_mean), list(cfg.model.pixel_std)
    assert MSRA.fits(Model(backbone=backbone, pixel_mean=mean, pixel_std=std))
    assert not TORCHVISION.fits(Model(backbone=backbone, msra=False))
    assert [cfg.dataloader[x].mapper.image_format for x in ("train", "test")] == ["BGR"] * 2
    for mapper in range(2, 4):
        wrong = load(CONFIG, [x for number, x in enumerate(overrides) if number != mapper])
        with pytest.raises(ConfigError, match=r"another order than the channels of dataloader\."):
            check_pairs(wrong)


@torch.no_grad()
def test_plain_vision_transformers(tmp_path):
    """MAE's names, as of the zoo; the map is the last block's output, at another size, too."""
    timm = pytest.importorskip("timm")
    options = dict(embed_dim=24, depth=4, num_heads=2, dynamic_img_size=True)
    name = "vit_tiny_patch16_224"
    torch.manual_seed(0)
    published = timm.create_model(name, num_classes=0, **options).eval()
    for parameter in published.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    extra = {"mask_token": torch.ones(1), "decoder_embed.weight": torch.ones(2, 2)}
    torch.save({"model": published.state_dict() | extra}, tmp_path / "mae.pth")
    backbone = TimmBackbone(name, out_features=["res4"], options=options)
    model = Model(msra=False, backbone=backbone).eval()
    assert load_weights(model, str(tmp_path / "mae.pth")) is False
    image = torch.randn(1, 3, 64, 96)
    tokens = published.patch_embed(image)
    tokens = published._pos_embed(tokens)
    for block in published.blocks:
        tokens = block(tokens)
    expected = tokens[:, 1:].transpose(1, 2).reshape(1, 24, 4, 6)
    torch.testing.assert_close(model.backbone(image)["res4"], expected)


def test_another_depth(files):
    with pytest.raises(CheckpointError, match=r"msra\.pkl doesn't fit the model: .*missing"):
        load_weights(Model(backbone=theirs(True, blocks=(2, 2, 11, 2))), str(files / "msra.pkl"))


def test_they_can_be_converted(files, tmp_path, capsys):
    assert main(["convert", str(files / "msra.pkl"), str(tmp_path / "a.pth")]) == 0
    assert "(caffe2)" in capsys.readouterr().out
    found = torch.load(tmp_path / "a.pth")["model"]
    assert found.keys() == {f"backbone.{name}" for name in theirs(True).state_dict()}


@pytest.fixture
def zoo(files, tmp_path, monkeypatch):
    """A zoo on this machine, by Detectron2's own handler; what was asked for."""
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(files))

        def log_message(self, *args):
            requests.append(self.path)

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(Detectron2Handler, "S3_DETECTRON2_PREFIX", address)
        yield requests
        server.shutdown()


def test_names_of_the_zoo_are_downloaded_once(files, zoo):
    model, same = Model(), Model()
    load_weights(model, "detectron2://msra.pkl")
    load_weights(same, "detectron2://msra.pkl?matching_heuristics=True")
    assert len(zoo) == 1
    load_weights(other := Model(), str(files / "msra.pkl"))
    for one in (model, same):
        assert torch.equal(one.backbone.stem.conv1.weight, other.backbone.stem.conv1.weight)


def test_a_name_that_the_zoo_lacks(zoo):
    with pytest.raises(SystemLimitError, match=r"download detectron2://gone\.pkl .*404.*FILE"):
        load_weights(Model(), "detectron2://gone.pkl")
