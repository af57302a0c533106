"""Query groups in the decoder: who sees whom, and what becomes of their predictions."""

import dataclasses
from unittest import mock

import pytest
import torch

from ms_detr.modeling import Groups, LearnedInitializer
from ms_detr.modeling.groups import Layout
from ms_detr.structures import GroupQueries, Queries, Targets
from ms_detr.supervision import FocalLoss, KnownAssigner
from ms_detr.supervision.losses import match
from ms_detr.variants.contrastive_denoising import ContrastiveDenoising
from ms_detr.variants.denoising import Denoising
from ms_detr.variants.group import FurtherGroups
from ms_detr.variants.hybrid import HybridQueries

from ..layers.support import random, randomise
from .test_decoder import DIM, LAYERS, QUERIES, make, make_inputs
from .test_query_initializer import make as make_two_stage

TAP = "decoder.cross_attention"
TARGETS = Targets.from_list(
    [
        {"labels": torch.tensor([1, 0, 2]), "boxes": torch.full((3, 4), 0.4, dtype=torch.double)},
        {"labels": torch.tensor([3]), "boxes": torch.full((1, 4), 0.3, dtype=torch.double)},
    ]
)
NO_OBJECTS = Targets.from_list([{"labels": torch.zeros(0).long(), "boxes": torch.zeros(0, 4)}] * 2)


def groups_of(*names):
    made = {
        "hybrid": HybridQueries(7),
        "group": FurtherGroups(num_groups=3, num_queries=QUERIES),
        "dn": Denoising(4, DIM, num_groups=2),
        "cdn": ContrastiveDenoising(4, DIM, num_queries=6),
    }
    return randomise(Groups(**{name: made[name] for name in names}))


def make_queries(count, seed=0):
    """Queries whose positions come from their boxes."""

    def position_of(boxes):
        return torch.cat((boxes, boxes.square()), -1)

    boxes = random(2, count, 4, seed=seed).sigmoid()
    content = random(2, count, DIM, seed=seed + 1)
    return Queries(content, position_of(boxes), boxes, position_of)


def run_groups(*names, targets=TARGETS):
    groups = groups_of(*names)
    rows = QUERIES + sum(groups.extra_queries.values())
    return groups(make_queries(rows), QUERIES, targets)


# What every query of a group is: its block, and what it sees besides. Written out for 5 primary
# queries, 7 of Hybrid DETR, two further groups of 5, 2 copies of 3 objects in DN, and in CDN, for 6
# positive queries, 2 copies of 3 positive and 3 negative ones.
LETTERS = {"hybrid": "H" * 7, "group": "A" * 5 + "B" * 5, "dn": "xxxyyy", "cdn": "u" * 6 + "v" * 6}
SCHEMES = [
    (),
    ("hybrid",),
    ("group",),
    ("dn",),
    ("cdn",),
    ("hybrid", "dn"),
    ("group", "cdn"),
    ("hybrid", "group", "dn", "cdn"),
]


def sees(row, column):
    return row == column or (column == "P" and row.islower())


@pytest.mark.parametrize("names", SCHEMES, ids=str)
def test_visibility(names):
    queries, visibility = join(*run_groups(*names))
    letters = "P" * QUERIES + "".join(LETTERS[name] for name in names)
    assert queries.count == len(letters)
    if not names:
        assert visibility is None
        return
    assert visibility.mask().tolist() == [[sees(row, col) for col in letters] for row in letters]


def decode(primary, groups, decoder=None):
    decoder = decoder or make()
    return decoder(primary, make_inputs()[1], True, groups)


def join(primary, groups):
    return Layout(primary, groups).join()


def perturbed(queries, positions):
    content = queries.content.clone()
    content[:, positions] += 1.0
    return dataclasses.replace(queries, content=content)


@pytest.mark.parametrize("names", SCHEMES[1:], ids=str)
def test_no_information_flows_where_it_must_not(names):
    """Another content of one block changes exactly the queries that see it."""
    primary, groups = run_groups(*names)
    letters = "P" * QUERIES + "".join(LETTERS[name] for name in names)

    def outputs(joined_queries):
        start, parts = QUERIES, {}
        for name, group in groups.items():
            part = joined_queries.part(start, start + group.queries.count)
            parts[name] = dataclasses.replace(group, queries=part)
            start += group.queries.count
        made = decode(joined_queries.part(0, QUERIES), parts)
        sources = ["decoder", *(f"{name}.decoder" for name in names)]
        return torch.cat([made[source].states for source in sources], 2)

    queries, _ = join(primary, groups)
    plain = outputs(queries)
    for block in sorted(set(letters)):
        positions = [index for index, letter in enumerate(letters) if letter == block]
        changed = (outputs(perturbed(queries, positions)) - plain).abs().amax((0, 1, 3))
        for index, letter in enumerate(letters):
            if sees(letter, block):
                assert changed[index] > 1e-6, (block, letter)
            else:
                assert changed[index] < 1e-12, (block, letter)


def test_primary_predictions_are_those_without_groups():
    primary, groups = run_groups("hybrid", "dn")
    alone = decode(primary, {})
    made = decode(primary, groups)
    assert set(map(str, alone)) == {"decoder", TAP}
    assert set(map(str, made)) == {"decoder", TAP, "hybrid.decoder", "dn.decoder"}
    for source in alone:
        for field in ("logits", "boxes", "states"):
            torch.testing.assert_close(getattr(made[source], field), getattr(alone[source], field))


@pytest.mark.parametrize("twice", [False, True])
def test_a_block_is_decoded_as_if_it_were_alone(twice):
    decoder = make(twice=twice)
    primary, groups = run_groups("group")
    made = decode(primary, groups, decoder=decoder)["group.decoder"]
    assert made.blocks == (QUERIES, QUERIES)
    for block in range(2):
        span = slice(block * QUERIES, (block + 1) * QUERIES)
        alone = decode(groups["group"].queries.part(span.start, span.stop), {}, decoder=decoder)
        torch.testing.assert_close(made.logits[:, :, span], alone["decoder"].logits)
        torch.testing.assert_close(made.boxes[:, :, span], alone["decoder"].boxes)


def test_taps_predict_for_groups_only_where_a_term_wants_it():
    decoder = make()
    counts = []

    def count(_, inputs, out):
        counts.append(out.shape[1])

    both = make(sources={TAP, f"hybrid.{TAP}"})
    for layer in (*decoder.layers, *both.layers):
        layer.taps["cross_attention"].register_forward_hook(count)
    primary, groups = run_groups("hybrid", "group")
    plain = decode(primary, groups, decoder=decoder)
    assert counts == [QUERIES] * LAYERS
    wanted = decode(primary, groups, decoder=both)
    # Those of the group behind it are not computed.
    assert counts[LAYERS:] == [QUERIES + 7] * LAYERS
    assert set(map(str, wanted)) == set(map(str, plain)) | {f"hybrid.{TAP}"}
    assert wanted[f"hybrid.{TAP}"].boxes.shape == (LAYERS, 2, 7, 4)
    torch.testing.assert_close(wanted[TAP].boxes, plain[TAP].boxes)
    alone = decode(groups["hybrid"].queries, {}, decoder=decoder)[TAP]
    torch.testing.assert_close(wanted[f"hybrid.{TAP}"].logits, alone.logits)
    torch.testing.assert_close(wanted[f"hybrid.{TAP}"].boxes, alone.boxes)


def test_a_tap_that_a_group_alone_wants_stays():
    decoder = make(sources={"decoder", f"hybrid.{TAP}"})
    assert set(map(str, decoder.tapped)) == {f"hybrid.{TAP}"}
    primary, groups = run_groups("hybrid")
    made = decode(primary, groups, decoder=decoder)
    assert set(map(str, made)) == {"decoder", "hybrid.decoder", f"hybrid.{TAP}"}
    assert set(map(str, decode(primary, {}, decoder=decoder))) == {"decoder"}
    assert make(sources={"decoder", "hybrid.decoder"}).tapped == set()


def test_what_a_group_knows_comes_with_its_predictions():
    primary, groups = run_groups("dn", "hybrid")
    made = decode(primary, groups)
    assert made["dn.decoder"].assignment is groups["dn"].assignment
    assert made["hybrid.decoder"].assignment is None
    assert made["decoder"].assignment is None
    assert made["decoder"].blocks is None


def alone(groups, *names):
    """The same, but that the decoder runs for groups of these names alone."""
    own = {name: dataclasses.replace(groups[name], own_pass=True) for name in names}
    return {**groups, **own}


@pytest.mark.parametrize("twice", [False, True])
def test_a_pass_of_its_own_equals_the_common_one(twice):
    """Blocks, taps and what nobody sees included."""
    decoder = make(twice=twice, sources={"decoder", "other.decoder", f"hybrid.{TAP}"})
    primary, groups = run_groups("hybrid", "dn")
    groups["other"] = GroupQueries(
        make_queries(6, seed=5), blocks=(2, 4), hidden=torch.tensor([[False] * 5 + [True]] * 2)
    )
    expected = decode(primary, groups, decoder=decoder)
    found = decode(primary, alone(groups, "hybrid", "other"), decoder=decoder)
    assert set(map(str, found)) == set(map(str, expected)) > {f"hybrid.{TAP}", "dn.decoder"}
    for source in expected:
        for field in ("logits", "boxes", "states"):
            one, other = getattr(found[source], field), getattr(expected[source], field)
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert (found[source].blocks, found[source].share) == (
            expected[source].blocks, expected[source].share
        )  # fmt: skip


def test_who_has_a_pass_of_its_own():
    primary, groups = run_groups("hybrid", "group", "dn")
    groups = {name: dataclasses.replace(x, averaged=False) for name, x in groups.items()}
    passes = Layout.passes(primary, alone(groups, "hybrid", "group"))
    assert [list(x.sizes.items()) for x in passes] == [
        [("", QUERIES), ("dn", 6)], [("hybrid", 7)], [("group", 10)]
    ]  # fmt: skip
    assert passes[1].join()[1] is None
    assert passes[2].join()[1].mask().tolist() == [
        [a == b for b in "A" * 5 + "B" * 5] for a in "A" * 5 + "B" * 5
    ]


def test_a_pass_without_queries_is_none():
    primary, groups = run_groups("hybrid")
    empty = {"hybrid": GroupQueries(groups["hybrid"].queries.part(0, 0), (), own_pass=True)}
    assert len(Layout.passes(primary, empty)) == 1
    assert decode(primary, empty)["hybrid.decoder"].logits.shape[2] == 0


def test_dropout_of_the_primary_queries_is_what_it_is_without_a_pass_of_its_own():
    decoder = make(sources={"decoder"})
    for module in decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.3
    primary, groups = run_groups("hybrid")

    def logits(given):
        torch.manual_seed(3)
        return decode(primary, given, decoder=decoder)["decoder"].logits

    expected = logits({})
    assert torch.equal(logits(alone(groups, "hybrid")), expected)
    assert not torch.allclose(logits(groups), expected)


@pytest.mark.parametrize("needed", ["sees_primary", "averaged"])
def test_queries_that_need_the_primary_ones_have_no_pass_of_their_own(needed):
    with pytest.raises(ValueError, match="neither see the primary queries nor be averaged"):
        GroupQueries(make_queries(2), (2,), own_pass=True, **{needed: True})


def test_padding_costs_nothing():
    """Neither loss nor gradient; `tests/variants` compares the loss with a loop."""
    primary, groups = run_groups("dn")
    made = decode(primary, groups)["dn.decoder"]
    padding = made.ignored
    assert padding.sum() == 2 * (3 - 1)  # two copies in the second image
    made.logits.retain_grad()
    known = KnownAssigner().assign(made, TARGETS, None)
    FocalLoss(1.0)(match(made, TARGETS, known)).sum().backward()
    gradient = made.logits.grad.abs().amax((0, 3))
    assert (gradient[padding] == 0).all()
    assert (gradient[~padding] > 0).all()


@pytest.mark.parametrize("names", [("dn",), ("cdn",), ("dn", "hybrid")], ids=str)
def test_without_objects_denoising_vanishes_and_keeps_its_gradients(names):
    groups = groups_of(*names)
    queries = make_queries(QUERIES + sum(groups.extra_queries.values()))
    primary, made = groups(queries, QUERIES, NO_OBJECTS)
    assert made[names[0]].queries.count == 0
    predictions = decode(primary, made)
    assert predictions[f"{names[0]}.decoder"].logits.shape[2] == 0
    alone = decode(primary, {})
    torch.testing.assert_close(predictions["decoder"].boxes, alone["decoder"].boxes)
    sum(x.logits.sum() + x.boxes.sum() for x in predictions.values()).backward()
    for name, parameter in groups.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all()


def test_positions_may_be_computed_in_every_layer():
    """A function stays the groups' as well."""
    primary, groups = run_groups("hybrid", "dn")
    expected = decode(primary, groups)

    def position(layer, place, content):
        return joined.position

    joined, _ = join(primary, groups)
    moving = dataclasses.replace(primary, position=position)
    parts = {
        name: dataclasses.replace(
            group, queries=moving.at(group.queries.content, group.queries.reference)
        )
        for name, group in groups.items()
    }
    made = decode(moving, parts)
    for source in expected:
        torch.testing.assert_close(made[source].boxes, expected[source].boxes)
    part = moving.part(1, 3)
    assert part.position is position and part.count == 2


@pytest.mark.parametrize("size", [2, 4])
def test_positions_that_nothing_can_tell(size):
    queries = Queries(random(2, 3, DIM), random(2, 3, DIM), random(2, 3, size))
    with pytest.raises(ValueError, match="can't tell the position of a box.*references are boxes"):
        queries.at(random(2, 1, DIM), random(2, 1, 4))


def test_none_drops_a_group_and_extra_queries_add_up():
    groups = Groups(hybrid=HybridQueries(7), dn=None, more=FurtherGroups(3, 5))
    assert groups.extra_queries == {"hybrid": 7, "more": 10}


def test_groups_split_the_extra_queries_in_order():
    groups = Groups(hybrid=HybridQueries(7), more=FurtherGroups(3, 5))
    queries = make_queries(QUERIES + 17)
    primary, made = groups(queries, QUERIES, TARGETS)
    parts = [primary, made["hybrid"].queries, made["more"].queries]
    for field in ("content", "position", "reference"):
        joined = torch.cat([getattr(part, field) for part in parts], 1)
        assert torch.equal(joined, getattr(queries, field))
    assert made["hybrid"] == GroupQueries(made["hybrid"].queries, (7,))
    assert made["more"] == GroupQueries(made["more"].queries, (5, 5), averaged=True)


@pytest.mark.parametrize(
    ("extra", "blocks"), [(10, (5, 5)), (7, (4, 3)), (1, (1,)), (0, ()), (12, (5, 5))]
)
def test_further_groups_shrink_evenly(extra, blocks):
    groups = Groups(more=FurtherGroups(3, 5))
    primary, made = groups(make_queries(QUERIES + extra), QUERIES, TARGETS)
    assert made["more"].blocks == blocks
    decoded = decode(primary, made)
    assert decoded["more.decoder"].logits.shape[2] == sum(blocks)
    # An average over the groups that have queries, the primary ones among them.
    assert decoded["decoder"].share == pytest.approx(1 / (1 + len(blocks)))
    assert decoded["more.decoder"].share == pytest.approx(len(blocks) / (1 + len(blocks)))


def test_groups_need_targets():
    with pytest.raises(ValueError, match="made from targets: call the model in evaluation mode"):
        Groups(hybrid=HybridQueries(7))(make_queries(20), QUERIES, None)


@pytest.mark.parametrize(
    ("make_group", "message"),
    [
        (lambda: HybridQueries(0), "at least 1 query, got 0"),
        (lambda: FurtherGroups(1), "at least 2 groups, got 1"),
        (lambda: Denoising(4, DIM, num_groups=0), "at least 1 group, got 0"),
        (lambda: Denoising(4, DIM, label_noise=2), "label_noise from 0 to 1.* got 2"),
        (lambda: ContrastiveDenoising(4, DIM, box_noise=-1), "box_noise of at least 0.* -1"),
        (
            lambda: ContrastiveDenoising(4, DIM, num_queries=0),
            "at least 1 query, got 0; model.groups",
        ),
    ],
)
def test_values_out_of_range(make_group, message):
    with pytest.raises(ValueError, match=message):
        make_group()


@pytest.mark.parametrize("mixed_selection", [False, True])
def test_extra_queries_of_two_stages_follow_in_the_ranking(mixed_selection):
    memory = make_inputs()[1]
    initializer = make_two_stage(3, mixed_selection, extra_queries=(2, 4))
    assert (initializer.num_queries, initializer.extra_queries) == (3, 6)
    queries, made = initializer(memory, supervised=True)
    ranking = made["encoder"].logits[0, :, :, 0].argsort(1, descending=True)[:, :9, None]
    expected = made["encoder"].boxes[0].gather(1, ranking.expand(-1, -1, 4))
    torch.testing.assert_close(queries.reference, expected)
    torch.testing.assert_close(queries.position_of(queries.reference), queries.position)
    alone, _ = initializer(memory, supervised=False)
    for field in ("content", "position", "reference"):
        torch.testing.assert_close(getattr(alone, field), getattr(queries, field)[:, :3])
    if mixed_selection:
        assert initializer.content.shape[0] == 9
        assert torch.equal(queries.content[0], initializer.content)


def test_extra_queries_of_one_stage():
    initializer = randomise(LearnedInitializer(3, DIM, extra_queries=[2]))
    memory = make_inputs()[1]
    queries, _ = initializer(memory, supervised=True)
    assert torch.equal(queries.content[1], initializer.content)
    assert queries.reference.shape == (2, 5, 2)
    with mock.patch.object(
        initializer.reference_points, "forward", wraps=initializer.reference_points.forward
    ) as points:
        alone, _ = initializer(memory, supervised=False)
    assert points.call_args.args[0].shape == (3, DIM)
    for field in ("content", "position", "reference"):
        torch.testing.assert_close(getattr(alone, field), getattr(queries, field)[:, :3])


def test_extra_queries_are_not_negative():
    with pytest.raises(ValueError, match=r"extra_queries can't be negative, got \[2, -1\]"):
        LearnedInitializer(3, DIM, extra_queries=[2, -1])
