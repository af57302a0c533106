"""Activation checkpointing: the same step with less memory."""

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from ms_detr.backbones import TimmBackbone, resnet
from ms_detr.engine.memory import PARTS, kept_buffers, layers_of, recompute
from ms_detr.errors import ConfigError

from ..modeling.support import SMALL, make_input, make_model

ALL = dict.fromkeys(PARTS, True)
CONFIGS = [
    SMALL,
    "configs/demo/ms_detr_masks.py",
    *(f"configs/demo/family/ms_detr_{name}.py" for name in ("conditional", "dab", "dino", "group")),
]
SHALLOW = (
    "model.dropout=0.1",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
    "model.feedforward_dim=64",
)


class Step:
    """Losses, gradients and buffers of a model's step, and how many bytes autograd kept for it."""

    def __init__(self, model, batch):
        self.kept = 0
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            self.losses = model(batch)
        sum(self.losses.values()).backward()
        parameters = model.named_parameters()
        self.gradients = {name: p.grad for name, p in parameters if p.grad is not None}
        self.buffers = dict(model.named_buffers())

    def _keep(self, tensor):
        self.kept += tensor.numel() * tensor.element_size()
        return tensor

    def same_as(self, other):
        pairs = (self.losses, other.losses), (self.gradients, other.gradients)
        return all(map(_equal, *zip(*pairs, (self.buffers, other.buffers), strict=True)))


def _equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def batch():
    return [make_input(48, 64, labels=(1, 0, 3), seed=1), make_input(64, 32, seed=2)]


@pytest.mark.parametrize("config", CONFIGS)
def test_losses_gradients_and_buffers_are_the_same_and_memory_is_less(config):
    """With dropout, and a backbone whose BatchNorm is trained."""
    model = make_model(*SHALLOW, config=config)
    recomputed = copy.deepcopy(model)
    recompute(recomputed, ALL)
    recomputed = copy.deepcopy(recomputed)  # as an average of the weights is made
    assert list(recomputed.state_dict()) == list(model.state_dict())
    plain, other = Step(model, batch()), Step(recomputed, batch())
    assert other.same_as(plain)
    assert other.kept < 0.5 * plain.kept


@pytest.mark.parametrize("part", PARTS)
def test_each_part_by_itself(part):
    model = make_model(*SHALLOW)
    recomputed = copy.deepcopy(model)
    recompute(recomputed, {part: True})
    plain, other = Step(model, batch()), Step(recomputed, batch())
    assert other.same_as(plain) and other.kept < plain.kept
    calls = []
    # Of one kind, they are of one class: what is compiled for one serves all.
    before, after = ({type(layer) for layer in layers_of(of, part)} for of in (model, recomputed))
    assert len(after) == len(before) and before.isdisjoint(after)
    for layer in layers_of(recomputed, part):
        layer.register_forward_pre_hook(lambda *_: calls.append(part))
    Step(recomputed, batch())
    assert len(calls) > len(layers_of(recomputed, part))  # some twice
    calls.clear()
    recomputed.eval()(batch())
    assert len(calls) == len(layers_of(recomputed, part))  # once


def test_without_copies_batchnorm_would_count_twice(monkeypatch):
    model = make_model(*SHALLOW)
    recomputed = copy.deepcopy(model)
    recompute(recomputed, {"backbone": True})
    monkeypatch.setattr("ms_detr.engine.memory.kept_buffers", lambda _: torch.enable_grad())
    plain, other = Step(model, batch()), Step(recomputed, batch())
    counts = [name for name in plain.buffers if name.endswith("res2.0.conv1.norm.running_mean")]
    assert len(counts) == 1
    assert not torch.equal(plain.buffers[counts[0]], other.buffers[counts[0]])


def test_buffers_are_kept():
    norms = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None))
    before = {name: (buffer, buffer.clone()) for name, buffer in norms.named_buffers()}
    with pytest.raises(KeyError), kept_buffers(norms):
        norms(torch.randn(2, 2, 3, 3))
        assert norms[1].num_batches_tracked == 1
        raise KeyError
    for name, buffer in norms.named_buffers():
        assert buffer is before[name][0] and torch.equal(buffer, before[name][1])


def blocks(backbone):
    model = nn.Module()
    model.backbone = backbone
    names = {id(module): name for name, module in backbone.named_modules()}
    return [names[id(block)] for block in layers_of(model, "backbone")]


def test_blocks_of_backbones():
    with torch.device("meta"):
        r50 = resnet(50)
        convnext = blocks(TimmBackbone("convnext_atto"))
        swin = TimmBackbone("swin_tiny_patch4_window7_224", options={"depths": [1, 1, 2, 1]})
    assert blocks(r50)[:4] == ["res2.0", "res2.1", "res2.2", "res3.0"] and len(blocks(r50)) == 16
    names = [f"body.layers_{name}" for name in ("0.blocks.0", "1.blocks.0", "2.blocks.0")]
    assert blocks(swin) == [*names, "body.layers_2.blocks.1", "body.layers_3.blocks.0"]
    assert convnext[:3] == ["body.stages_0.blocks.0", "body.stages_0.blocks.1", convnext[2]]
    assert blocks(nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4))) == [""]


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_timms_backbones_with_random_depth_and_trained_batchnorm(name):
    options = {"drop_path_rate": 0.5}
    backbone = TimmBackbone(name, out_features=("res3",), frozen_bn=False, options=options)
    model = nn.Module()
    model.backbone = backbone
    model.forward = lambda x: {"loss": model.backbone(x)["res3"].square().mean()}
    recomputed = copy.deepcopy(model)
    recomputed.forward = lambda x: {"loss": recomputed.backbone(x)["res3"].square().mean()}
    recompute(recomputed, {"backbone": True})
    images = torch.randn(2, 3, 64, 64)
    plain, other = Step(model, images), Step(recomputed, images)
    assert other.same_as(plain) and other.kept < 0.7 * plain.kept


def test_a_model_without_the_part(train):
    with pytest.raises(ConfigError, match=r"_checkpointing\.encoder=true, but the model has no mo"):
        train("out", "+train.activation_checkpointing={encoder: true}")


def test_a_run_is_the_same(train, tmp_path):
    """A stand-in's run, whose backbone's statistics are of batches."""
    from .test_run import assert_same, weights

    trained = "model.batch_statistics=true"
    train("plain", trained, "train.max_iter=3")
    train("less", trained, "train.max_iter=3", "+train.activation_checkpointing={backbone: true}")
    assert_same(weights(tmp_path / "less"), weights(tmp_path / "plain"))
