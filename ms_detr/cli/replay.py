"""Run a step again whose losses or gradients weren't finite, and show where that begins.

ms-detr replay output/my_run/failed_steps/0001234/rank0.pth [--anomaly] [--device cpu]

The exit status is 1 if it isn't finite this time either, and 0 if it is.
"""

import argparse
from collections.abc import Iterator
from typing import Any

from ._arguments import path

CAME_AGAIN = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("file", type=path, metavar="FILE", help="rank....pth of a folder in failed_steps")
    add("config", nargs="?", metavar="CONFIG", help="of the run, where its model has parts of your "
        "own; otherwise it is known")  # fmt: skip
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    add("--device", help="cpu, cuda or cuda:N (default: as the run's, if there is one)")
    add("--anomaly", action="store_true", help="let torch name the operation whose gradient is "
        "NaN, with the line that called it; slow")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the step, and show what it does."""
    import torch

    from ms_detr.config import load
    from ms_detr.engine.device import choose_device
    from ms_detr.engine.record import read_record
    from ms_detr.engine.replay import replay
    from ms_detr.engine.replay_model import model_of

    record = read_record(args.file)
    kind = record.content["device"] if torch.cuda.is_available() else "cpu"
    device = choose_device(args.device or kind)
    cfg = load(args.config, args.opts) if args.config else None
    for line in _about(record):
        print(line)
    found = replay(model_of(record, cfg), record, device, args.anomaly)
    for line in _told(found, record, device):
        print(line)
    return 0 if found.finite else CAME_AGAIN


def _about(record: Any) -> Iterator[str]:
    """The step as it was saved: where it comes from, and its images."""
    known = record.content
    yield (
        f"iteration {known['iteration']}, rank {known['rank']} of {known['processes']}, on "
        f"{known['device']}, amp {known['amp']}, torch {known['torch']}, ms_detr {known['version']}"
    )
    yield f"in the run {known['what']} was not finite: {known['trouble']}"
    if known["left_out"]:
        yield f"not kept of the images: {', '.join(known['left_out'])}"
    for number, part in enumerate(record.parts):
        if len(record.parts) > 1:
            yield f"part {number} of the batch"
        yield from (_image(x) for x in part)


def _image(x: dict[str, Any]) -> str:
    """An image in a line: what it is, its size and pixels, its objects and their boxes."""
    texts = [f"image {x.get('image_id', '?')} ({x.get('file_name', 'no file')})"]
    if "image" in x:
        pixels = x["image"]
        low, high = pixels.min().item(), pixels.max().item()
        texts.append(f"{pixels.shape[-1]} x {pixels.shape[-2]} pixels of {low} to {high}")
    if "instances" in x:
        boxes = x["instances"].gt_boxes.tensor
        texts.append(f"{len(boxes)} objects")
        if len(boxes):
            sides = boxes[:, 2:] - boxes[:, :2]
            least, most = boxes[:, :2].amin(0).tolist(), boxes[:, 2:].amax(0).tolist()
            texts.append("boxes from ({:g}, {:g}) to ({:g}, {:g})".format(*least, *most))
            texts.append(f"sides of {sides.min().item():g} to {sides.max().item():g}")
    return "  " + ", ".join(texts)


def _told(found: Any, record: Any, device: Any) -> Iterator[str]:
    """What came of it."""
    from ms_detr.engine.replay import NAN

    yield f"losses on {device}:"
    for part in found.losses:
        bad = found.bad_losses
        for name, loss in part.items():
            yield f"  {name}: {loss.item():.9g}{'  <- not finite' if name in bad else ''}"
    if before := record.content["losses"]:
        same = found.same_losses(before)
        yield "they are those of the run, to the last digit" if same else "the run had others"
    if found.weights:
        yield f"weights that are not finite: {_some(found.weights)}"
    for what, where in found.outputs.items():
        meant = "" if what == NAN else " (it may be meant, for padding)"
        yield f"the first module that returns something {what}: {where}{meant}"
    if found.error:
        yield f"it ends with: {found.error}"
    if found.gradients:
        yield f"gradients that are not finite: {_some(found.gradients)}"
    if found.gradient_of:
        yield f"the first such gradient, on the way back, is that of what {found.gradient_of} gave"
    yield "it is finite this time" if found.finite else "it came again"


def _some(names: list[str]) -> str:
    from ms_detr.errors import listed

    return listed(names)
