"""Turn a published checkpoint into one that ms_detr loads; ours into .safetensors and back."""

import argparse
from collections.abc import Mapping
from typing import Any

from ms_detr.errors import CheckpointError, listed

from ._arguments import path

SOURCES = (
    "ms-detr",
    "deformable-detr",
    "h-detr",
    "dino",
    "dab-deformable-detr",
    "dn-deformable-detr",
    "detr",
    "smca-detr",
    "sam-detr",
    "conditional-detr",
    "dab-detr",
    "dn-detr",
    "detrex",
    "detrex-dino",
    "align-detr",
    "detrex-conditional-detr",
    "group-detr",
    "co-detr",
    "mmdet-co-dino",
    "transformers-detr",
    "transformers-conditional-detr",
    "transformers-dab-detr",
    "transformers-deformable-detr",
    "torchvision",
    "detectron2",
    "caffe2",
    "vit",
    "efficientnet-lite0",
    "swin",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "source", type=path, metavar="SRC", help="the .pth, .bin, .safetensors or .pkl file"
    )
    parser.add_argument(
        "target", type=path, metavar="DST", help="the .pth or .safetensors file to be written"
    )
    parser.add_argument(
        "--from",
        choices=SOURCES,
        dest="layout",
        metavar="LAYOUT",
        help="whose it is; left out, it is told by the names of the tensors. One of "
        + ", ".join(SOURCES),
    )
    parser.add_argument(
        "--classes",
        choices=("coco91", "keep"),
        default=None,
        help="coco91: heads with a row a COCO id become 80 classes (default for the official "
        "repositories); keep: all rows",
    )
    parser.add_argument(
        "--all-queries",
        action="store_true",
        help="keep H-DETR's queries of the one-to-many branch, for training on",
    )


def run(args: argparse.Namespace) -> int:
    """Read, convert, write."""
    from ms_detr.convert import LAYOUTS, recognise
    from ms_detr.engine.archive import expect_new_weights, write_weights
    from ms_detr.engine.weights import read_weights

    expect_new_weights(args.target)
    state = read_weights(args.source)
    layout = args.layout or recognise(state)
    if layout is None:
        content, origin = _ours(args, state), "ours"
    else:
        content, origin = _converted(args, state, layout), layout
    write_weights(args.target, content)
    count = len(content["model"])
    print(f"{args.target}: {count} tensors from {len(state)} of {args.source} ({origin})")
    evaluated = f"ms-detr evaluate CONFIG {args.target}, or "
    print(
        f"use it: {evaluated if layout is None or LAYOUTS[layout].detector else ''}"
        f"ms-detr train CONFIG train.init_checkpoint={args.target}"
    )
    return 0


def _converted(args: argparse.Namespace, state: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """The content of a checkpoint, of a published state dict."""
    from ms_detr.convert import LAYOUTS, convert_state_dict
    from ms_detr.data import class_names

    classes = args.classes or LAYOUTS[layout].classes
    try:
        converted = convert_state_dict(state, layout, classes, args.all_queries)
    except CheckpointError as error:
        raise CheckpointError(f"{args.source}: {error}") from error
    # Clones: a row of a larger tensor would bring all of it along.
    plain = {name: tensor.clone() for name, tensor in converted.items()}
    # Those of the rows that are taken; of others only their owner knows the names.
    names = {"classes": class_names("coco_2017_val")} if classes == "coco91" else {}
    return {"model": plain, **names}


def _ours(args: argparse.Namespace, state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint of ours for a file of the other format, with what it knows."""
    from ms_detr.engine.archive import is_safetensors, read_facts

    if not any(name.startswith("query_initializer.") for name in state):
        raise CheckpointError(
            f"{args.source}: no layout is known by its names ({listed(state, 3)}); "
            "tell it with --from"
        )
    if is_safetensors(args.source) == is_safetensors(args.target):
        raise CheckpointError(
            f"{args.source} has our names already: give it as it is, "
            f"train.init_checkpoint={args.source}"
        )
    return {"model": state, **read_facts(args.source)}
