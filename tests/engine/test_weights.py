"""Initial weights: torchvision's, URLs, wrong ones."""

import copy
import http.server
import threading

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from ms_detr.backbones import resnet
from ms_detr.engine import load_weights

from .. import published


class Model(nn.Module):
    def __init__(self, num_classes=80, width=4):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.class_head = nn.Linear(width, num_classes)


def saved(tmp_path, content, name="weights.pth"):
    path = str(tmp_path / name)
    torch.save(content, path)
    return path


def test_no_weights():
    assert load_weights(Model(), "") is False
    assert load_weights(Model(), None) is False


@pytest.mark.parametrize("wrap", [
    lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s},
    lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
])  # fmt: skip
def test_whole_model(tmp_path, wrap):
    source, target = Model(), Model()
    assert load_weights(target, saved(tmp_path, wrap(source.state_dict()))) is True
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_other_queries_or_groups(tmp_path):
    """A group's queries are rows of the content, as further primary ones are."""
    model, other = Model(), Model()
    for one, rows in ((model, 4), (other, 6)):
        one.query_initializer = nn.Embedding(rows, 2)
    message = "Set model.num_queries and the groups of model.groups as it was trained"
    with pytest.raises(ValueError, match=message):
        load_weights(model, saved(tmp_path, other.state_dict()))


def test_backbone_alone(tmp_path):
    source, target = Model(), Model()
    head = target.class_head.weight.clone()
    state = {k: v for k, v in source.state_dict().items() if k.startswith("backbone.")}
    assert load_weights(target, saved(tmp_path, state)) is False
    assert torch.equal(target.backbone[0].weight, source.backbone[0].weight)
    assert torch.equal(target.class_head.weight, head)
    del state["backbone.0.bias"]
    with pytest.raises(ValueError, match=r"1 missing \(backbone\.0\.bias\)"):
        load_weights(target, saved(tmp_path, state))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (Model(91).state_dict(), r"2 of wrong shape .*on 91 classes, model.num_classes is 80"),
        (Model(width=8).state_dict(), "model of another size"),
        ({"a.weight": torch.ones(2)}, r"unknown \(a\.weight\)\. No name is known"),
        ({**Model().state_dict(), "extra": torch.ones(1)}, r"1 unknown \(extra\)"),
        ({"class_head.weight": torch.ones(80, 4)}, r"missing .* and 4 more\)"),
        ({"model": {}}, "holds no weights"),
        ({}, "holds no weights"),
        (torch.ones(3), "holds no weights"),
    ],
)  # fmt: skip
def test_wrong_checkpoint_is_an_error(tmp_path, state, message):
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_weights(model, saved(tmp_path, state))
    assert "weights.pth" in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value)


@pytest.fixture(scope="module")
def torchvision_resnet():
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # else a swap of norms could not be seen
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


@torch.no_grad()
def test_torchvision_resnet_gives_the_same_features(tmp_path, torchvision_resnet):
    model = nn.Module()
    model.backbone = resnet()
    model.head = nn.Linear(2, 2)
    path = saved(tmp_path, torchvision_resnet.state_dict())
    assert load_weights(model, path) is False
    image = torch.rand(1, 3, 64, 64).double()
    stages = copy.deepcopy(torchvision_resnet).double()
    x = stages.maxpool(stages.relu(stages.bn1(stages.conv1(image))))
    x = stages.layer2(stages.layer1(x))
    features = model.double().eval().backbone(image)
    for name, stage in (("res3", nn.Identity()), ("res4", stages.layer3), ("res5", stages.layer4)):
        x = stage(x)
        # With the metadata of the state dict, Detectron2 0.4 would shift the variances.
        torch.testing.assert_close(features[name], x)
    variances = [m.running_var for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert torch.equal(variances[0], stages.bn1.running_var)


def test_torchvision_resnet_of_another_depth(tmp_path):
    model = nn.Module()
    model.backbone = resnet()
    state = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(ValueError, match=r"missing \(backbone\.res"):
        load_weights(model, saved(tmp_path, state))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine; requests that it got, and torch hub's cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            requests.append(self.path)

    cache = tmp_path / "cache"
    monkeypatch.setattr(torch.hub, "_hub_dir", str(cache))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}", cache / "checkpoints", requests
        httpd.shutdown()


def test_url_is_downloaded_once(server):
    folder, url, cache, requests = server
    source, target = Model(), Model()
    saved(folder, source.state_dict())
    for _ in range(2):
        assert load_weights(target, f"{url}/weights.pth")
    assert torch.equal(target.class_head.weight, source.class_head.weight)
    assert len(requests) == 1 and (cache / "weights.pth").is_file()


@pytest.mark.parametrize("name", ["gone.pth", "resnet50-0676ba61.pth"])
def test_failed_download_says_what_to_do(server, name):
    folder, url, cache, _ = server
    saved(folder, Model().state_dict(), "resnet50-0676ba61.pth")  # not what its name promises
    with pytest.raises(OSError) as error:
        load_weights(Model(), f"{url}/{name}")
    for part in (f"{url}/{name}", str(cache / name), 'train.init_checkpoint=""'):
        assert part in str(error.value)
    assert not (cache / name).exists()
    # The advice works.
    cache.mkdir(parents=True, exist_ok=True)
    saved(cache, Model().state_dict(), name)
    assert load_weights(Model(), f"{url}/{name}")


def test_shared_tensors_have_to_be_equal(tmp_path):
    """Loaded one after the other, the last of different heads would win silently."""
    model = Model()
    model.same_head = model.class_head
    state = dict(model.state_dict())
    assert load_weights(model, saved(tmp_path, state)) is True
    state["same_head.bias"] = state["same_head.bias"] + 1
    with pytest.raises(ValueError, match=r"1 unlike what the model shares .*\(same_head\.bias\)"):
        load_weights(model, saved(tmp_path, state))


def test_a_published_detector_has_to_be_converted_first(tmp_path):
    path = saved(tmp_path, published.two_stage(backbone=False, dim=8, ffn=8, layers=2))
    with pytest.raises(
        ValueError, match=r"names of deformable-detr: convert it first, ms-detr conv"
    ):
        load_weights(Model(), path)
