"""Where query groups lie: planted groups, distances by loops."""

import math
from dataclasses import replace

import pytest
import torch
from detectron2.config import LazyCall as L

from ms_detr.analysis import QueryDistances, Sample, query_places
from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError, DataError
from ms_detr.modeling import QueryGroup
from ms_detr.structures import NO_CANDIDATES, Assignment, GroupQueries, Targets

PLACES = torch.tensor([[0.1, 0.2], [0.9, 0.3], [0.6, 0.6], [0.2, 0.9]])


class Planted(QueryGroup):
    """Four queries: two learn the image's last object, one its first, one nothing."""

    needs_boxes = True

    def __init__(self, own):
        super().__init__()
        self.own = own

    def forward(self, primary, extra, targets, candidates=NO_CANDIDATES):
        boxes = torch.cat((PLACES, torch.full((4, 2), 0.1)), 1)[None]
        queries = primary.at(primary.content[:, :4], boxes)
        last = targets.labels.shape[1] - 1
        chosen = torch.tensor([last, 0, last])
        if self.own:  # an object a query, in an order of their own
            own = Targets.from_list(
                [{"labels": targets.labels[0, chosen], "boxes": targets.boxes[0, chosen]}]
            )
            known = Assignment(
                torch.arange(3).view(1, 1, 3, 1), torch.ones(1, 1, 3, 1).bool(), own.labels
            )
            return GroupQueries(queries, (4,), assignment=known, targets=own)
        query = torch.zeros(1, 1, last + 1, 2, dtype=torch.int64)
        valid = torch.zeros(1, 1, last + 1, 2, dtype=torch.bool)
        for g, slot, q in ((last, 0, 0), (0, 0, 1), (last, 1, 2)):
            query[0, 0, g, slot], valid[0, 0, g, slot] = q, True
        return GroupQueries(queries, (4,), assignment=Assignment(query, valid, targets.labels))


@pytest.fixture(scope="module")
def planted(tiny):
    def make(own):
        _, (inputs,) = tiny("demo/family/dn.py", images=1)
        cfg = load("demo/family/dn.py", ["model.num_queries=20", "model.decoder.num_layers=2"])
        cfg.model.groups.denoising = L(Planted)(own=own)
        torch.manual_seed(0)
        model = build(cfg, "model").eval()
        for parameter in model.decoder.box_heads.parameters():  # or all layers match alike
            torch.nn.init.normal_(parameter, std=0.3)
        return model, Sample.of(model, inputs)

    return make


def watched_references(model, sample):
    """The primary queries' centres, and what the criterion matches them with."""
    seen = []
    handle = model.decoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].reference))
    with torch.no_grad():
        made = model.forward_tensors(sample.pixels, sample.padding_mask, sample.targets)
        found = model.criterion.assign(made, sample.targets)["o2o"]
    handle.remove()
    assert not torch.equal(found.query[0], found.query[-1])
    matched = found.query[-1, 0, :, 0].tolist()
    return seen[0][0, :, :2].tolist(), matched


@pytest.mark.parametrize("own", [False, True])
def test_planted_queries(planted, own):
    model, sample = planted(own)
    places = query_places(model, sample)
    group, last = places.groups["denoising"], len(sample.boxes) - 1
    torch.testing.assert_close(group.points, PLACES[:3].double())
    assert group.objects.tolist() == [last, 0, last]
    centers, matched = watched_references(model, sample)
    expected = [last + 1] * 20
    for g, query in enumerate(matched):
        expected[query] = g
    assert places.primary.objects.tolist() == expected
    torch.testing.assert_close(places.primary.points, torch.tensor(centers).double())


def test_objects_in_one_place_are_told_apart_by_their_class(planted):
    model, sample = planted(True)
    targets = sample.targets
    same = replace(targets, boxes=targets.boxes[:, :1].expand_as(targets.boxes))
    assert len(sample.classes) == targets.labels.shape[1]
    found = query_places(model, replace(sample, targets=same)).groups["denoising"]
    last = targets.labels.shape[1] - 1
    assert found.objects.tolist() == [last, 0, last]


def test_distances_by_loops(planted):
    model, sample = planted(True)
    places = query_places(model, sample)
    height, width = sample.size
    distances = QueryDistances()
    distances.add(places, sample.size)
    # An image in which the matched query is far away counts by its queries.
    far = replace(places.primary, points=1 - places.primary.points)
    distances.add(replace(places, primary=far), (height, 2 * width))
    near_sum = far_sum = 0.0
    for flip, w in ((False, width), (True, 2 * width)):
        centers, matched = watched_references(model, sample)
        if flip:
            centers = [[1 - x, 1 - y] for x, y in centers]

        def apart(a, b, w=w):
            return math.hypot((a[0] - b[0]) * w, (a[1] - b[1]) * height) / math.hypot(w, height)

        for place, g in zip(PLACES.tolist(), (len(matched) - 1, 0, len(matched) - 1), strict=False):
            near_sum += apart(place, centers[matched[g]])
            rest = [apart(place, x) for q, x in enumerate(centers) if q not in matched]
            far_sum += sum(rest) / len(rest)
    count, near, far_mean = distances.means()["denoising"]
    assert count == 6
    assert near == pytest.approx(near_sum / 6, abs=1e-6)
    assert far_mean == pytest.approx(far_sum / 6, abs=1e-6)


@pytest.mark.parametrize("name", ["cdn", "hybrid", "group"])
def test_groups_of_the_family(tiny, name):
    model, (inputs,) = tiny(f"demo/family/{name}.py", images=1)
    sample = Sample.of(model, inputs)
    torch.manual_seed(5)
    first = query_places(model, sample)
    torch.manual_seed(6)
    again = query_places(model, sample)
    objects = len(sample.boxes)
    for group, found in first.groups.items():
        assert len(found.objects) >= objects
        assert set(found.objects.tolist()) == set(range(objects))
        assert torch.equal(found.points, again.groups[group].points)
    assert torch.equal(first.primary.points, again.primary.points)


def test_without_noise_denoising_queries_lie_on_their_objects(tiny):
    noise = [f"model.groups.denoising.{kind}_noise=0" for kind in ("label", "box")]
    model, (inputs,) = tiny("demo/family/dn.py", *noise, images=1)
    sample = Sample.of(model, inputs)
    found = query_places(model, sample).groups["denoising"]
    expected = sample.targets.boxes[0, found.objects, :2].double()
    torch.testing.assert_close(found.points, expected, atol=1e-4, rtol=0)


def test_without_groups_or_objects(tiny):
    model, (inputs,) = tiny("demo/ms_detr.py", images=1)
    with pytest.raises(ConfigError, match=r"this model has none: take one with model\.groups"):
        query_places(model, Sample.of(model, inputs))
    model, (inputs,) = tiny("demo/family/hybrid.py", images=1)
    empty = inputs | {"instances": inputs["instances"][:0]}
    sample = Sample.of(model, empty)
    distances = QueryDistances()
    distances.add(query_places(model, sample), sample.size)
    with pytest.raises(DataError, match="'hybrid' has no positive query in 1 images"):
        distances.means()
