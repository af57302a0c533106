import copy
from dataclasses import replace

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances

from ms_detr.config import load
from ms_detr.meta_arch import MSDETR, GeneralizedDETR

from .modeling.support import (
    BASELINE,
    MS_DETR,
    ROOT,
    make_batch,
    make_input,
    make_model,
)

NO_DROPOUT = "model.dropout=0.0"


@pytest.fixture(scope="module")
def trained():
    """A small MS-DETR with other weights than at the start; tests must not change it."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


def test_is_registered():
    assert META_ARCH_REGISTRY.get("GeneralizedDETR") is GeneralizedDETR
    assert META_ARCH_REGISTRY.get("MSDETR") is MSDETR and issubclass(MSDETR, GeneralizedDETR)


BATCHES = {
    "different sizes, one image empty": make_batch,
    "one image": lambda: [make_input(64, 64, labels=(2,))],
    "one image without objects": lambda: [make_input(64, 64)],
    "all images without objects": lambda: [make_input(64, 96), make_input(64, 64)],
    "an object without area": lambda: [
        make_input(64, 64, labels=(2, 1), boxes=[(5, 5, 5, 5), (1, 8, 9, 8)])
    ],
    "an object as large as the image": lambda: [
        make_input(64, 64, labels=(2,), boxes=[(0, 0, 64, 64)])
    ],
    "more objects than queries": lambda: [make_input(64, 64, labels=(1,) * 20)],
    "a narrow image": lambda: [make_input(8, 120, labels=(1,), boxes=[(3, 2, 70, 7)])],
}


@pytest.mark.parametrize("batch", BATCHES)
def test_losses_and_gradients_are_finite_and_reach_everything(model, batch):
    """No parameter may go without a gradient, which would stop distributed training."""
    losses = model(BATCHES[batch]())
    expected = {
        f"{term}/loss_{loss}/{layer}"
        for term in ("o2o", "o2m")
        for loss in ("class", "bbox", "giou")
        for layer in (0, 1)
    } | {f"encoder/loss_{loss}" for loss in ("class", "bbox", "giou")}
    assert set(losses) == expected
    assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 32)])
def test_one_cell_of_one_image_is_too_little_for_batch_norm(model, height, width):
    x = make_input(height, width, labels=(1,), boxes=[(0, 0, width, height)])
    with pytest.raises(ValueError, match="more than 1 value per channel") as error:
        model.backbone(x["image"][None].float())
    assert "image" not in str(error.value)
    with pytest.raises(ValueError, match=f"image 0.png is {width} x {height} pixels .*BatchNorm"):
        model([x])
    assert all(loss.isfinite() for loss in model([x, x]).values())
    assert len(model.eval()([x])) == 1


def test_the_batch_is_normalised_and_padded_at_the_bottom_and_right(model):
    batch = make_batch()
    images, mask = model.preprocess(batch)
    assert images.shape == (3, 3, 80, 96)
    assert mask.shape == (3, 80, 96)
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    for image, padding, x in zip(images, mask, batch, strict=True):
        height, width = x["image"].shape[1:]
        torch.testing.assert_close(image[:, :height, :width], (x["image"] - mean) / std)
        assert not padding[:height, :width].any()
        assert padding[height:].all()
        assert padding[:, width:].all()
        assert (image[:, padding] == 0).all()


def test_targets_are_fractions_of_each_image(model):
    batch = [
        make_input(50, 100, labels=(4, 2), boxes=[(10, 5, 30, 25), (0, 0, 100, 50)]),
        make_input(80, 40),
    ]
    targets = model.targets(batch, (80, 100))
    assert targets.counts == (2, 0)
    assert targets.labels[0].tolist() == [4, 2]
    expected = torch.tensor([[0.2, 0.3, 0.2, 0.4], [0.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(targets.boxes[0], expected)


def test_training_is_forward_tensors_and_criterion(model):
    batch = make_batch()
    images, mask = model.preprocess(batch)
    targets = model.targets(batch, (80, 100))
    torch.manual_seed(0)
    losses = model(batch)
    torch.manual_seed(0)
    again = model.criterion(model.forward_tensors(images, mask, targets), targets)
    assert losses.keys() == again.keys()
    assert all(torch.equal(losses[name], again[name]) for name in losses)


def test_inference_is_forward_tensors_and_postprocess(model):
    model.eval()
    batch = make_batch()
    out = model(batch)
    predictions = model.forward_tensors(*model.preprocess(batch))
    assert set(map(str, predictions)) == {"decoder"}
    found = model.postprocess(predictions["decoder"])
    for b, (x, made) in enumerate(zip(batch, out, strict=True)):
        instances = made["instances"]
        height, width = x["image"].shape[1:]
        assert isinstance(instances, Instances)
        assert instances.image_size == (height, width)
        scale = torch.tensor([width, height, width, height])
        torch.testing.assert_close(instances.pred_boxes.tensor, found.boxes[b] * scale)
        assert torch.equal(instances.scores, found.scores[b])
        assert torch.equal(instances.pred_classes, found.labels[b])
        assert (instances.scores.diff() <= 0).all()
        assert instances.pred_classes.max() < 6


def test_boxes_are_scaled_to_the_output_size(model):
    model.eval()
    (plain,) = model([make_input(64, 96)])
    (scaled,) = model([{**make_input(64, 96), "height": 128, "width": 480}])
    assert scaled["instances"].image_size == (128, 480)
    torch.testing.assert_close(
        scaled["instances"].pred_boxes.tensor,
        plain["instances"].pred_boxes.tensor * torch.tensor([5.0, 2.0, 5.0, 2.0]),
    )
    assert torch.equal(scaled["instances"].scores, plain["instances"].scores)


def test_inference_needs_no_instances(model):
    model.eval()
    x = make_input(64, 64)
    (expected,) = model([x])
    del x["instances"], x["file_name"]
    (found,) = model([x])
    assert torch.equal(found["instances"].scores, expected["instances"].scores)


def test_targets_in_evaluation_give_all_sources(model):
    model.double().eval()
    batch = make_batch()
    images, mask = model.preprocess(batch)
    targets = model.targets(batch, (80, 100))
    targets = replace(targets, boxes=targets.boxes.double())
    predictions = model.forward_tensors(images, mask, targets)
    assert set(map(str, predictions)) == {"decoder", "decoder.cross_attention", "encoder"}
    assert predictions["decoder"].logits.shape == (2, 3, 12, 6)
    assert predictions["encoder"].logits.shape[0] == 1
    alone = model.forward_tensors(images, mask)["decoder"]
    torch.testing.assert_close(alone.logits[-1], predictions["decoder"].logits[-1])
    torch.testing.assert_close(alone.boxes[-1], predictions["decoder"].boxes[-1])
    assert all(loss.isfinite() for loss in model.criterion(predictions, targets).values())


def test_predictions_do_not_depend_on_the_other_images(model):
    model.double().eval()
    batch = [make_input(64, 96, seed=seed) for seed in range(3)]
    together = model(batch)
    for x, expected in zip(batch, together, strict=True):
        (alone,) = model([x])
        for field in ("scores", "pred_classes"):
            torch.testing.assert_close(
                getattr(alone["instances"], field), getattr(expected["instances"], field)
            )
        boxes = expected["instances"].pred_boxes.tensor
        torch.testing.assert_close(alone["instances"].pred_boxes.tensor, boxes)


def predict(model):
    with torch.no_grad():
        return [x["instances"] for x in model.eval()(make_batch())]


def test_training_parts_are_not_needed_at_inference(model):
    before = predict(model)
    model.criterion = None
    for layer in model.decoder.layers:
        del layer.taps["cross_attention"]
    # Heads of all layers but the last classify for the losses only.
    model.decoder.class_heads[0] = None
    for old, new in zip(before, predict(model), strict=True):
        assert torch.equal(old.scores, new.scores)
        assert torch.equal(old.pred_classes, new.pred_classes)
        assert torch.equal(old.pred_boxes.tensor, new.pred_boxes.tensor)


def test_taps_are_not_run_at_inference(model):
    calls = []
    for layer in model.decoder.layers:
        for child in layer.taps.modules():
            child.register_forward_hook(lambda *_: calls.append(1))
    predict(model)
    assert not calls
    model.train()(make_batch())
    assert calls


def test_fewer_tokens_than_queries():
    model = make_model("model.num_queries=100")
    batch = [make_input(32, 32, labels=(1, 2), seed=1), make_input(32, 24, seed=2)]
    losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values())
    model.eval()
    tokens = 16 + 4 + 1 + 1
    assert model.forward_tensors(*model.preprocess(batch))["decoder"].logits.shape[2] == tokens
    assert len(model(batch)[0]["instances"]) == min(100, tokens * 6)


def test_training_without_instances_names_the_image(model):
    x = make_input(64, 64)
    del x["instances"]
    with pytest.raises(ValueError, match=r"needs 'instances' for image 0\.png"):
        model([x])


@pytest.mark.parametrize("label", [6, 90, -1])
def test_a_label_out_of_range_names_file_class_and_key(model, label):
    x = make_input(64, 64, labels=(2, label), seed=7)
    message = rf"7\.png has class {label}.*0 to 5.*model\.num_classes"
    with pytest.raises(ValueError, match=message):
        model([x])


def test_a_source_that_nobody_predicts():
    override = "model.criterion.terms.o2m.source=decoder.self_attention"
    message = r"terms has the source decoder\.self_attention, .*'cross_attention'.*layer\.taps"
    with pytest.raises(ValueError, match=message):
        make_model(override)


@pytest.mark.parametrize("term, source", [("encoder", "encoder"), ("o2o", "decoder")])
def test_what_inference_needs_has_to_be_trained(term, source):
    with pytest.raises(ValueError, match=rf"no term .* source \['{source}'\].*not be trained"):
        make_model(f"model.criterion.terms.{term}=null")


@pytest.mark.parametrize(
    "override, message",
    [
        ("criterion.terms.o2m.weight=-1", "weight can't be negative.*-1.*cross_attention"),
        ("criterion.terms.o2o.losses.bbox.weight=-1", "weight can't be negative"),
        ("criterion.terms.o2m.assigner.k=0", "k is the most queries.*at least 1"),
        ("criterion.terms.o2m.assigner.threshold=2", "threshold .* from 0 to 1, got 2"),
        ("criterion.terms.o2m.assigner.alpha=7", "alpha .* from 0 to 1, got 7"),
        ("criterion.terms.o2m.assigner.quota=-1", "quota .* from 0 to 1, got -1"),
        ("criterion.terms.o2o.losses.class.gamma=-1", "loss's gamma can't be negative, got -1"),
        ("criterion.terms.o2o.losses.class.alpha=2", "alpha is from 0 to 1, got 2"),
        ("criterion.terms.o2m.assigner=null", r"'decoder\.cross_attention' needs an assigner"),
        ("criterion.terms.o2m.losses=null", r"'decoder\.cross_attention' needs .* losses; null"),
        ("query_initializer.anchor_size=0", r"anchor_size .* above 0 and below 1, got 0"),
        ("query_initializer.anchor_size=2", r"anchor_size .* above 0 and below 1, got 2"),
        ("decoder.epsilon=0", r"model\.decoder\.epsilon must be above 0 and below 0.5, got 0"),
        ("embed_dim=36", r"model\.embed_dim must be a multiple of 32, got 36"),
        ("num_heads=0", "num_heads 0"),
        ("feedforward_dim=0", r"model\.feedforward_dim must be at least 1"),
        ("decoder.num_layers=0", r"model\.decoder\.num_layers must be at least 1"),
        ("num_queries=0", r"model\.num_queries must be at least 1"),
        ("pixel_mean=[1,2]", r"model\.pixel_mean"),
    ],
)
def test_values_out_of_range(override, message):
    with pytest.raises(ValueError, match=message):
        make_model(f"model.{override}")


def test_a_target_box_that_is_not_finite_is_the_datas_fault(model):
    x = make_input(64, 64, labels=(2,), boxes=[(0, 0, float("nan"), 8)])
    with pytest.raises(ValueError, match=r"0\.png has a box that is NaN or infinite"):
        model([x])


def test_a_dropped_term_takes_its_tap_along():
    model = make_model("model.criterion.terms.o2m=null")
    assert model.decoder.tapped == set()
    sum(model(make_batch()).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


SELF_FIRST = "model.decoder.layer.order=[self_attention,cross_attention,ffn]"
O2M_SOURCE = "model.criterion.terms.o2m.source"
TAP = "${model.decoder.layer.taps.cross_attention}"
# arXiv:2401.03989, Fig. 4; (c) is the default.
VARIANTS = {
    "a": ([SELF_FIRST, f"{O2M_SOURCE}=decoder"], set()),
    "b": ([f"{O2M_SOURCE}=decoder"], set()),
    "c": ([], {"decoder.cross_attention"}),
    "d": (
        [
            SELF_FIRST,
            f"+model.decoder.layer.taps.self_attention='{TAP}'",
            f"{O2M_SOURCE}=decoder.self_attention",
        ],
        {"decoder.self_attention"},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_paper_are_overrides(variant):
    overrides, tapped = VARIANTS[variant]
    model = make_model(*overrides)
    assert set(map(str, model.decoder.tapped)) == tapped
    losses = model(make_batch())
    assert {name.split("/")[0] for name in losses} == {"o2o", "o2m", "encoder"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


# Trainable parameters of the published code, without the frozen stem and first stage.
PUBLISHED = [
    (MS_DETR, 91, 53_571_225),
    (BASELINE, 91, 47_262_873),
    (MS_DETR, 80, 53_551_436),
    (BASELINE, 80, 47_243_084),
]


@pytest.mark.parametrize(("config", "classes", "expected"), PUBLISHED)
def test_parameters_are_as_many_as_published(config, classes, expected):
    cfg = load(ROOT / config, [f"model.num_classes={classes}"]).model
    with torch.device("meta"):
        model = instantiate(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 222_400
