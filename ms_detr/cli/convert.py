"""Turn a published checkpoint into one that ms_detr loads."""

import argparse

from ._arguments import path

SOURCES = (
    "ms-detr",
    "deformable-detr",
    "h-detr",
    "dino",
    "detrex",
    "detrex-dino",
    "torchvision",
    "swin",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", type=path, metavar="SRC", help="the published .pth file")
    parser.add_argument("target", type=path, metavar="DST", help="the .pth file to be written")
    parser.add_argument("--from", required=True, choices=SOURCES, dest="layout")
    parser.add_argument(
        "--classes",
        choices=("coco91", "keep"),
        default=None,
        help="coco91: heads with a row a COCO id become 80 classes (default for the official "
        "repositories); keep: all rows",
    )


def run(args: argparse.Namespace) -> int:
    """Read, convert, write."""
    import torch

    from ms_detr.convert import LAYOUTS, convert_state_dict
    from ms_detr.engine.state import read_checkpoint
    from ms_detr.engine.weights import state_of
    from ms_detr.files import atomic_path

    if args.target.exists():
        raise FileExistsError(f"{args.target} exists; choose another file or remove it")
    state = state_of(read_checkpoint(args.source), str(args.source))
    classes = args.classes or LAYOUTS[args.layout].classes
    converted = convert_state_dict(state, args.layout, classes)
    # Clones: a row of a larger tensor would bring all of it along.
    plain = {name: tensor.clone() for name, tensor in converted.items()}
    with atomic_path(args.target) as partial:
        torch.save({"model": plain}, partial)
    print(f"{args.target}: {len(plain)} tensors from {len(state)} of {args.source}")
    print(f"use it: train_net.py --eval-only ... train.init_checkpoint={args.target}")
    return 0
