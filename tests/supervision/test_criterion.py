import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.errors import NonFiniteError
from ms_detr.structures import Predictions, PredictionSet
from ms_detr.supervision import (
    AnchorHungarianAssigner,
    Criterion,
    FocalLoss,
    GIoULoss,
    HungarianAssigner,
    L1Loss,
    Losses,
    ReleasedTopK,
    SupervisionTerm,
    Terms,
)

from . import reference
from .support import make_images, make_predictions, make_targets

CONFIG = "configs/ms_detr/ms_detr_r50_300q_12ep.py"
LAYERS, QUERIES, TOKENS = 2, 60, 15
O2M = "decoder.cross_attention"


def losses(class_weight):
    return Losses(**{"class": FocalLoss(class_weight)}, bbox=L1Loss(5.0), giou=GIoULoss(2.0))


def make_criterion():
    """The supervision of MS-DETR as its authors released it."""
    anchors = AnchorHungarianAssigner(0.0, 5.0, 2.0, class_agnostic=True)
    return Criterion(
        Terms(
            o2o=SupervisionTerm("decoder", HungarianAssigner(), losses(1.0)),
            o2m=SupervisionTerm(O2M, ReleasedTopK(), losses(2.0)),
            encoder=SupervisionTerm("encoder", anchors, losses(2.0)),
        )
    )


def scene(counts, seed=0):
    rng = np.random.default_rng(seed)
    images = make_images(rng, counts)
    # One-to-many boxes are off by enough to stay within the quota, so that nothing is random.
    sets = {
        "decoder": make_predictions(rng, images, QUERIES, spread=0.3),
        O2M: make_predictions(rng, images, QUERIES, spread=0.5),
        "encoder": make_predictions(rng, images, TOKENS, layers=1, layered=False),
    }
    for made in sets.values():
        made.logits.requires_grad_()
        made.boxes.requires_grad_()
    return images, Predictions(sets)


def hungarian(b, logits, boxes, image):
    labels, objects = image["labels"].numpy(), image["boxes"].numpy()
    cost = reference.matching_cost(logits, boxes, labels, objects)
    return reference.hungarian(cost), cost, labels


def released(b, logits, boxes, image):
    labels, objects = image["labels"].numpy(), image["boxes"].numpy()
    score = reference.quality(logits, boxes, labels, objects)
    return reference.released_top_k(score), score, labels


def on_anchors(anchors):
    def assign(b, logits, boxes, image):
        objects = image["boxes"].numpy()
        labels = np.zeros(len(objects), int)
        cost = reference.matching_cost(logits, anchors[b], labels, objects, (0.0, 5.0, 2.0))
        return reference.hungarian(cost), cost, labels

    return assign


def expected_losses(images, predictions, num_objects):
    """{log name: loss} by the loops."""
    out = {}
    anchors = predictions["encoder"].anchors.numpy()
    for term, source, assign, class_weight in (
        ("o2o", "decoder", hungarian, 1.0),
        ("o2m", O2M, released, 2.0),
        ("encoder", "encoder", on_anchors(anchors), 2.0),
    ):
        made = predictions[source]
        weights = {"class": class_weight, "bbox": 5.0, "giou": 2.0}
        for layer in range(made.logits.shape[0]):
            found = reference.term_losses(
                made.logits[layer], made.boxes[layer], images, assign, num_objects, weights
            )
            ending = f"/{layer}" if made.layered else ""
            out.update({f"{term}/loss_{name}{ending}": loss for name, loss in found.items()})
    return out


COUNTS = [(3, 0, 2), (1,), (0, 0), (7, 4)]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_losses_and_gradients_equal_the_loops(counts):
    images, predictions = scene(counts)
    found = make_criterion()(predictions, make_targets(images))
    expected = expected_losses(images, predictions, max(1, sum(counts)))
    assert set(found) == set(expected)
    for name, loss in found.items():
        assert loss.shape == ()
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-9, abs=1e-12), name
    inputs = [x for made in predictions.values() for x in (made.logits, made.boxes)]
    gradients = torch.autograd.grad(sum(found.values()), inputs, allow_unused=True)
    others = torch.autograd.grad(sum(expected.values()), inputs, allow_unused=True)
    for gradient, other in zip(gradients, others, strict=True):
        if other is None:  # no objects: the loops never touch the boxes
            assert gradient.abs().max() == 0
        else:
            torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-12)


def test_log_names():
    images, predictions = scene((2, 1))
    names = set(make_criterion()(predictions, make_targets(images)))
    layered = {
        f"{term}/loss_{loss}/{layer}"
        for term in ("o2o", "o2m")
        for loss in ("class", "bbox", "giou")
        for layer in range(LAYERS)
    }
    assert names == layered | {f"encoder/loss_{loss}" for loss in ("class", "bbox", "giou")}


def test_without_any_object_only_classes_are_learnt():
    images, predictions = scene((0, 0))
    for name, loss in make_criterion()(predictions, make_targets(images)).items():
        if "loss_class" in name:
            assert loss > 0
        else:
            assert loss == 0
        assert loss.requires_grad, name


def test_float32():
    """As close as sixteen roundings of every logit and coordinate move it, to first order."""
    images, predictions = scene((3, 0, 2))
    single = Predictions(
        {
            name: PredictionSet(x.logits.float(), x.boxes.float(), x.anchors.float(), x.layered)
            for name, x in predictions.items()
        }
    )
    low = [{"labels": image["labels"], "boxes": image["boxes"].float()} for image in images]
    found = make_criterion()(single, make_targets(low))
    expected = make_criterion()(predictions, make_targets(images))
    inputs = [x for made in predictions.values() for x in (made.logits, made.boxes)]
    rounding = torch.finfo(torch.float32).eps / 2
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        exact = expected[name]
        gradients = torch.autograd.grad(exact, inputs, retain_graph=True, allow_unused=True)
        pairs = zip(gradients, inputs, strict=True)
        moved = sum((g * x).abs().sum().item() for g, x in pairs if g is not None)
        bound = 16 * rounding * (moved + exact.item())
        assert loss.item() == pytest.approx(exact.item(), rel=0, abs=bound), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_supervised_in_single(dtype):
    """Rounded once, by the model; sums and logarithms take no part in it."""
    images, predictions = scene((3, 0), seed=2)
    images = [{**image, "boxes": image["boxes"].float()} for image in images]

    def run(given):
        torch.manual_seed(0)  # the quota's draw
        leaves, sets = [], {}
        for source, made in predictions.items():
            half = [x.detach().to(dtype).to(given) for x in (made.logits, made.boxes, made.anchors)]
            leaves += [x.requires_grad_() for x in half[:2]]
            sets[source] = PredictionSet(*half, layered=made.layered)
        losses = make_criterion()(Predictions(sets), make_targets(images))
        sum(losses.values()).backward()
        return losses, [x.grad for x in leaves]

    losses, gradients = run(dtype)
    expected, others = run(torch.float32)
    for name, loss in losses.items():
        assert torch.equal(loss, expected[name]), name
    for gradient, other in zip(gradients, others, strict=True):
        assert torch.equal(gradient, other.to(dtype))


def test_targets_stay_bit_identical():
    images, predictions = scene((3, 0, 2))
    targets = make_targets(images)
    fields = ("labels", "boxes", "valid")
    before = {name: getattr(targets, name).clone() for name in fields}
    versions = {name: getattr(targets, name)._version for name in fields}
    sum(make_criterion()(predictions, targets).values()).backward()
    for name in fields:
        assert torch.equal(getattr(targets, name), before[name])
        assert getattr(targets, name)._version == versions[name], f"{name} was written to"
    assert targets.counts == (3, 0, 2)


def test_predictions_are_not_written_to():
    images, predictions = scene((3, 0, 2))
    make_criterion()(predictions, make_targets(images))
    for made in predictions.values():
        assert made.logits._version == made.boxes._version == made.anchors._version == 0


@pytest.mark.parametrize(
    ("field", "value"), [("logits", np.nan), ("boxes", np.nan), ("boxes", np.inf)]
)
def test_a_cost_that_is_not_finite_names_term_layer_and_image(field, value):
    images, predictions = scene((3, 0, 2))
    images[2]["labels"][:] = 0
    made = predictions["decoder"]
    spoilt = {"logits": made.logits.detach().clone(), "boxes": made.boxes.detach().clone()}
    spoilt[field][1, 2, 3, 0] = value
    broken = Predictions({**predictions, "decoder": PredictionSet(**spoilt)})
    with pytest.raises(NonFiniteError, match="term 'o2o' is not finite in layer 1, image 2"):
        make_criterion()(broken, make_targets(images))
    assert issubclass(NonFiniteError, FloatingPointError)


def test_predictions_that_are_not_finite_show_in_the_loss_where_no_cost_is_made():
    images, predictions = scene((3, 0, 2))
    made = predictions[O2M]
    logits = made.logits.detach().clone()
    logits[1, 0, 5, 1] = np.nan
    broken = Predictions({**predictions, O2M: PredictionSet(logits, made.boxes)})
    found = make_criterion()(broken, make_targets(images))
    assert {name for name, loss in found.items() if loss.isnan()} == {"o2m/loss_class/1"}


def test_a_source_that_was_not_predicted():
    images, predictions = scene((1,))
    bare = Predictions({name: predictions[name] for name in ("decoder", "encoder")})
    with pytest.raises(KeyError, match="cross_attention"):
        make_criterion()(bare, make_targets(images))


def test_sources():
    assert set(map(str, make_criterion().sources)) == {"decoder", O2M, "encoder"}


def test_none_drops_a_term():
    term = SupervisionTerm("decoder", HungarianAssigner(), losses(1.0))
    assert set(Terms(o2o=term, o2m=None)) == {"o2o"}
    with pytest.raises(ValueError, match=r"model\.criterion\.terms is empty"):
        Criterion(Terms(o2m=None))


def test_without_a_count_of_its_own_a_term_is_divided_by_all_objects():
    """What terms.denoising.objects=null says on the command line."""
    images, predictions = scene((3, 0, 2))
    terms = {
        name: SupervisionTerm("decoder", HungarianAssigner(), losses(1.0), **given)
        for name, given in (("default", {}), ("none", {"objects": None}))
    }
    found = Criterion(Terms(**terms))(predictions, make_targets(images))
    for name, value in found.items():
        assert torch.equal(value, found[name.replace("none/", "default/")])


def from_config(*overrides):
    return instantiate(load(CONFIG, overrides).model.criterion)


def test_the_config_has_the_released_supervision():
    images, predictions = scene((3, 0, 2))
    found = from_config()(predictions, make_targets(images))
    expected = make_criterion()(predictions, make_targets(images))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("override", "factor", "of"),
    [
        ("model.criterion.terms.o2m.weight=2.0", 2.0, "o2m/"),
        ("model.criterion.terms.o2o.weight=0.5", 0.5, "o2o/"),
        ("model.criterion.terms.o2o.losses.bbox.weight=15", 3.0, "o2o/loss_bbox"),
        ("model.criterion.terms.encoder.losses.giou.weight=1.0", 0.5, "encoder/loss_giou"),
        ("model.criterion.terms.o2m.losses.class.weight=0.0", 0.0, "o2m/loss_class"),
    ],
)
def test_weights_act_from_the_command_line(override, factor, of):
    images, predictions = scene((3, 0, 2))
    plain = make_criterion()(predictions, make_targets(images))
    found = from_config(override)(predictions, make_targets(images))
    changed = 0
    for name, loss in found.items():
        scale = factor if name.startswith(of) else 1.0
        changed += name.startswith(of)
        assert loss.item() == pytest.approx(scale * plain[name].item(), rel=1e-9), name
    assert changed > 0


def test_terms_and_losses_are_dropped_from_the_command_line():
    images, predictions = scene((3, 0, 2))
    plain = make_criterion()(predictions, make_targets(images))
    criterion = from_config(
        "model.criterion.terms.o2m=null", "model.criterion.terms.encoder.losses.giou=null"
    )
    found = criterion(predictions, make_targets(images))
    assert set(map(str, criterion.sources)) == {"decoder", "encoder"}
    dropped = {name for name in plain if name.startswith("o2m/")} | {"encoder/loss_giou"}
    assert set(found) == set(plain) - dropped


@pytest.mark.parametrize(
    ("override", "differs"),
    [
        ("model.criterion.terms.o2m.assigner.k=1", "o2m/loss_bbox"),
        ("model.criterion.terms.o2m.assigner.threshold=0.7", "o2m/loss_bbox"),
        ("model.criterion.terms.o2m.assigner.alpha=0.9", "o2m/loss_bbox"),
        ("model.criterion.terms.o2m.losses.class.gamma=0.0", "o2m/loss_class"),
        ("model.criterion.terms.encoder.assigner.l1_cost=0.0", "encoder/loss_bbox"),
        ("model.criterion.terms.o2o.assigner.class_cost=50.0", "o2o/loss_bbox"),
    ],
)
def test_assigners_and_losses_are_set_from_the_command_line(override, differs):
    images, predictions = scene((6, 3))
    plain = make_criterion()(predictions, make_targets(images))
    found = from_config(override)(predictions, make_targets(images))
    changed = {name.split("/")[0] for name in found if not torch.equal(found[name], plain[name])}
    assert changed == {differs.split("/")[0]}
    assert any(
        not torch.equal(found[name], plain[name]) for name in found if name.startswith(differs)
    )
