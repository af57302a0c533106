"""Distances between heads against loops, scipy and the published matrix."""

from dataclasses import replace

import pytest
import torch
from detectron2.config import LazyCall as L
from scipy.stats import entropy

from ms_detr.analysis import Conflict, Sample
from ms_detr.analysis.conflict import (
    class_activation,
    class_scores,
    conflict_scores,
    distribution,
    divergences,
)
from ms_detr.auxiliary import Adapter, Auxiliary, AuxiliaryHeads
from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError, DataError
from ms_detr.meta_arch import OUTPUT
from ms_detr.structures import TokenGrid
from tests.analysis.heads import Looking, Mute
from tests.analysis.test_maps import memory_of, slow_bilinear


@pytest.fixture(scope="module")
def headed(tiny, demo_dataset):
    """A model with the auxiliary heads of these kinds, and a sample."""

    def make(**heads):
        _, (inputs,) = tiny("demo/deformable_detr.py", images=1)
        cfg = load("demo/deformable_detr.py", ["model.decoder.num_layers=1"])
        embed_dim = "${model.embed_dim}"
        made = {name: L(kind)(embed_dim=embed_dim) for name, kind in heads.items()}
        adapter = L(Adapter)(embed_dim=embed_dim)
        cfg.model.auxiliary = L(Auxiliary)(adapter=adapter, heads=L(AuxiliaryHeads)(**made))
        torch.manual_seed(0)
        model = build(cfg, "model").eval()
        return model, Sample.of(model, inputs)

    return make


def test_activation_against_loops(float64):
    rows, columns = (4, 2), (5, 3)
    memory = memory_of([torch.randn(3, 5, 6), torch.randn(3, 3, 3)], rows, columns)
    slopes = torch.randn_like(memory.tokens)
    maps, of_slopes = memory.maps(), memory.grid.maps(slopes)
    expected = torch.zeros(rows[0], columns[0])
    for level in range(2):
        small = [[0.0] * columns[level] for _ in range(rows[level])]
        cells = [(r, c) for r in range(rows[level]) for c in range(columns[level])]
        means = [
            sum(float(of_slopes[level][0, r, c, channel]) for r, c in cells) / len(cells)
            for channel in range(3)
        ]
        for r, c in cells:
            weighed = [m * float(maps[level][0, k, r, c]) for k, m in enumerate(means)]
            small[r][c] = max(0.0, sum(weighed))
        expected += torch.tensor(slow_bilinear(small, rows[0], columns[0])) / 2
    found = class_activation(memory.tokens, slopes, memory.grid)
    assert expected.max() > 0
    torch.testing.assert_close(found, expected)


def test_divergences_are_those_of_scipy(float64):
    drawn = [torch.randn(4, 5).relu() for _ in range(3)]
    maps = [distribution(x, epsilon=1e-3) for x in drawn]
    found = divergences(maps)
    for i, left in enumerate(drawn):
        for j, right in enumerate(drawn):
            p, q = ((x / x.max() + 1e-3).flatten().numpy() for x in (left, right))
            assert float(found[i, j]) == pytest.approx(entropy(p, q), abs=1e-12)
    assert torch.equal(found.diagonal(), torch.zeros(3))
    uniform = distribution(torch.zeros(2, 3))
    torch.testing.assert_close(uniform, torch.full((2, 3), 1 / 6))


def test_published_distances():
    """Co-DETR's supplement, K=2; and the other numbers of heads by hand."""
    matrix = torch.tensor([[0, 0.0078, 0.0085], [0.0073, 0, 0.0062], [0.0079, 0.0059, 0]])
    found = conflict_scores(matrix.double(), ("decoder", "atss", "rcnn"))
    assert found == pytest.approx({"atss": 0.00605, "rcnn": 0.00605}, abs=1e-8)
    found = conflict_scores(matrix[:2, :2].double(), ("decoder", "atss"))
    assert found == pytest.approx({"atss": 0.00755}, abs=1e-8)
    drawn = torch.rand(4, 4).double()
    found = conflict_scores(drawn, ("decoder", "a", "b", "c"))
    for i, name in ((1, "a"), (2, "b"), (3, "c")):
        both = sum(float(drawn[i, j] + drawn[j, i]) for j in (1, 2, 3) if j != i)
        assert found[name] == pytest.approx(both / (2 * (3 - 1)), abs=1e-12)


def test_the_score_of_the_decoder_is_its_best_logits(headed):
    model, sample = headed(a=Looking)
    labels = torch.full_like(sample.targets.labels, 3)  # one class counts once
    sample = replace(sample, targets=replace(sample.targets, labels=labels))
    logits = model.forward_tensors(sample.pixels, sample.padding_mask)[OUTPUT].logits[-1, 0]
    _, memory = model.encode(sample.pixels, sample.padding_mask)
    found = class_scores(model, sample)["decoder"](memory)
    assert len(sample.boxes) > 1
    torch.testing.assert_close(found, logits[:, 3].max())


def test_heads_of_a_model(headed):
    """Against gradients that are taken here, through the adapter, too."""
    model, sample = headed(a=Looking, b=Looking)
    conflict = Conflict()
    for _ in range(2):
        conflict.add(model, sample)
    assert (conflict.heads, conflict.images) == (("decoder", "a", "b"), 2)
    _, memory = model.encode(sample.pixels, sample.padding_mask)
    slopes = []
    for head in (model.auxiliary.heads["a"], model.auxiliary.heads["b"]):
        tokens = memory.tokens.detach().requires_grad_()
        maps = TokenGrid.maps(memory.grid, tokens)
        maps = [x.permute(0, 3, 1, 2) for x in maps]
        maps.append(model.auxiliary.adapter.levels[0](maps[-1].contiguous()))
        best = torch.stack([head.logits(level)[0].amax((1, 2)) for level in maps]).amax(0)
        best[sample.targets.labels[0].unique()].sum().backward()
        slopes.append(tokens.grad)
    p, q = (
        (cam / cam.max() + 1e-6).flatten().double().numpy()
        for cam in (class_activation(memory.tokens.detach(), x, memory.grid) for x in slopes)
    )
    matrix = conflict.matrix()
    assert float(matrix[1, 2]) == pytest.approx(entropy(p, q), rel=1e-4)
    assert float(matrix[2, 1]) == pytest.approx(entropy(q, p), rel=1e-4)
    assert float(matrix[0, 1]) > 0
    assert matrix.diagonal().abs().max() == 0


def test_heads_that_agree_have_no_conflict(headed):
    model, sample = headed(a=Looking, b=Looking)
    model.auxiliary.heads["b"].load_state_dict(model.auxiliary.heads["a"].state_dict())
    conflict = Conflict()
    conflict.add(model, sample)
    assert conflict.scores() == {"a": 0, "b": 0}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_compared(headed, tiny):
    model, sample = headed(a=Mute)
    with pytest.raises(ConfigError, match="Mute tells no class score"):
        Conflict().add(model, sample)
    plain, (inputs,) = tiny("demo/deformable_detr.py", images=1)
    with pytest.raises(ConfigError, match=r"its decoder alone: take a model with model.auxiliary"):
        Conflict().add(plain, Sample.of(plain, inputs))
    with pytest.raises(ConfigError, match="epsilon has to be above 0"):
        Conflict(0.0)


def test_images_without_objects_are_left_out(headed, tiny):
    model, sample = headed(a=Looking)
    _, (inputs,) = tiny("demo/deformable_detr.py", images=1)
    conflict = Conflict()
    conflict.add(model, Sample.of(model, inputs | {"instances": inputs["instances"][:0]}))
    with pytest.raises(DataError, match="none of the images has an object"):
        conflict.matrix()
    conflict.add(model, sample)
    assert conflict.images == 1
