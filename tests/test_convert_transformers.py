"""Models of Hugging Face's transformers, and what they compute, beside the converted ones."""

import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.convert import convert_state_dict, recognise, revert_state_dict
from ms_detr.engine.state import load_strictly
from ms_detr.engine.weights import read_weights

from .conftest import ROOT

transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")
pytestmark = pytest.mark.slow

QUERIES, CLASSES = 12, 5
COMMON = dict(
    use_timm_backbone=True,
    backbone="resnet18",
    use_pretrained_backbone=False,
    backbone_config=None,
    d_model=32,
    encoder_layers=2,
    decoder_layers=3,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    num_queries=QUERIES,
    num_labels=CLASSES,
)
SIZES = (
    "model.embed_dim=32",
    "model.num_heads=4",
    "model.feedforward_dim=48",
    "model.encoder.num_layers=2",
    "model.decoder.num_layers=3",
    f"model.num_queries={QUERIES}",
    f"model.num_classes={CLASSES}",
)
REFINED = {"with_box_refine": True}
TWO_STAGE = {**REFINED, "two_stage": True, "two_stage_num_proposals": QUERIES}
# Kind, options, our config, overrides that make the forward pass the same.
OWN_RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [64, 128, 256, 512],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
DEFORMABLE = "deformable_detr/deformable_detr"
# Kind, layout, options, our config, overrides that make the forward pass the same.
MODELS = {
    "detr": ("Detr", "detr", {}, "detr/detr_r50_100q_50ep", ()),
    "own_resnet": (
        "Detr",
        "detr",
        {"use_timm_backbone": False, "backbone": None, "backbone_config": OWN_RESNET},
        "detr/detr_r50_100q_50ep",
        (),
    ),
    "conditional": (
        "ConditionalDetr",
        "conditional-detr",
        {},
        "conditional_detr/conditional_detr_r50_300q_50ep",
        (),
    ),
    "dab": (
        "DabDetr",
        "dab-detr",
        {"hidden_size": 32},
        "dab_detr/dab_detr_r50_300q_50ep",
        ("model.decoder.epsilon=1e-5",),
    ),
    **{
        name: ("DeformableDetr", "deformable-detr", options, f"{DEFORMABLE}_{config}_12ep", ())
        for name, options, config in (
            ("one_stage", {}, "one_stage_r50_300q"),
            ("refined", REFINED, "refined_r50_300q"),
            ("two_stage", TWO_STAGE, "r50_300q"),
        )
    },
}


@pytest.fixture(params=MODELS)
def case(request):
    """Their model with random weights, and what the case is."""
    kind, layout, options, config, overrides = MODELS[request.param]
    torch.manual_seed(0)
    settings = getattr(transformers, f"{kind}Config")(**COMMON | options)
    model = getattr(transformers, f"{kind}ForObjectDetection")(settings).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.dtype.is_floating_point:
                continue
            spread = 0.5 if tensor.dim() == 1 else 1.5 / tensor[0].numel() ** 0.5
            tensor.normal_(0, spread)
            if name.endswith("running_var") or "norm" in name or "bn" in name:
                tensor.abs_().add_(0.5)
    return model, f"transformers-{layout}", config, overrides


def file_of(model, folder):
    model.save_pretrained(folder)
    return read_weights(folder / "model.safetensors")


def ours(state, layout, config, overrides):
    maps = "res3: 128, res4: 256, res5: 512" if "deformable" in config else "res5: 512"
    backbone = ("model.backbone.depth=18", f"model.neck.in_channels={{{maps}}}")
    config = load(ROOT / "configs" / f"{config}.py", [*SIZES, *backbone, *overrides])
    model = instantiate(config.model)
    load_strictly(model, convert_state_dict(state, layout), layout)
    return model.eval()


def test_a_file_is_recognised_and_read_whole(case, tmp_path):
    model, layout, config, overrides = case
    state = file_of(model, tmp_path)
    assert recognise(state) == layout
    ours(state, layout, config, overrides)


@pytest.fixture
def double_by_default():
    """What they make without a type is as precise as what they are given."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_forward_pass_is_the_same(case, tmp_path, double_by_default):
    """With padding, in float64; boxes as they are, classes as probabilities."""
    model, layout, config, overrides = case
    converted = ours(file_of(model, tmp_path), layout, config, overrides).double()
    model.double()
    images = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    images[1, :, 64:], images[1, :, :, 96:] = 0, 0
    with torch.no_grad():
        theirs = model(pixel_values=images, pixel_mask=(~padding).long())
        predictions = converted.forward_tensors(images, padding)["decoder"]
    background = layout == "transformers-detr"
    expected = theirs.logits.softmax(-1)[..., :-1] if background else theirs.logits.sigmoid()
    found = predictions.probability(predictions.logits[-1])
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(predictions.boxes[-1], theirs.pred_boxes, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", sorted(MODELS.keys() - {"own_resnet"}), indirect=True)
def test_the_way_back(case, tmp_path):
    """To timm's names; a ResNet of transformers' own is read alone."""
    model, layout, *_ = case
    state = file_of(model, tmp_path)
    back = revert_state_dict(convert_state_dict(state, layout), layout)
    assert state.keys() <= back.keys()
    live = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(back) == len(live)
    assert all(torch.equal(back[name], state[name]) for name in state)
