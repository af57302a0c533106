"""Every method of the demo, tiny and untrained, and one export of each kind."""

from pathlib import Path

import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.data import DetrMapper
from ms_detr.exporting import FORMATS, Form, compare, export
from ms_detr.meta_arch import GeneralizedDETR, Usage
from ms_detr.recipes.demo import METHODS

WIDTHS = {"stem": 8, "res2": 16, "res3": 24, "res4": 32}
TINY = (
    "model.backbone.widths=[8,16,24,32]",
    "model.backbone.blocks=1",
    "model.num_queries=48",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
)
CONFIGS = {
    **{name: f"demo/family/{name}.py" for name in METHODS},
    "masks": "demo/ms_detr_masks.py",
    "masks by attention": "demo/ms_detr_masks_attention.py",
}
# Odd sides, one that is a multiple of every stride, one whose coarsest map has few cells.
BATCHES = (((131, 167), (90, 100), (97, 203)), ((128, 192),), ((65, 71), (40, 65)))


def small_model(name: str) -> GeneralizedDETR:
    """A method's model, of random weights that tell images apart."""
    whole = load(CONFIGS[name]).model
    overrides = [*TINY, _channels("model.neck", whole.neck)]
    if "levels" in whole.decoder:
        overrides.append("model.decoder.levels=[2,0]")
    if whole.get("masks") is not None:
        overrides.append(_channels("model.masks", whole.masks))
    torch.manual_seed(0)
    model = instantiate(load(CONFIGS[name], overrides).model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.set_usage(Usage(DetrMapper([], is_train=False), 3))
    return model


def _channels(key, node) -> str:
    widths = ",".join(f"{name}:{WIDTHS[name]}" for name in node.in_channels)
    return f"{key}.in_channels={{{widths}}}"


def images(*sizes, seed=0):
    """The mapper's inputs of images of noise."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
        for size in sizes
    ]


def check(name: str, folder: Path, format: str, form: Form) -> None:
    """A file of a method predicts what PyTorch does, on batches of several sizes."""
    model = small_model(name)
    file = export(model, folder / f"model{FORMATS[format].suffix}", format, form)
    batches = [images(*sizes, seed=seed) for seed, sizes in enumerate(BATCHES)]
    found = compare(model, FORMATS[format].open(file), form, batches)
    assert len(found) == sum(map(len, BATCHES))
    for one in found:
        assert one.objects >= 5, one  # untrained scores may tie with the last one, and are left out
        assert one.missing == 0, one
        assert max(one.scores, one.boxes) < 1e-4, one
        assert one.masks < 1e-3, one
