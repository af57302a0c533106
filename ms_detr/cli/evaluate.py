"""Evaluate a trained model, or a file of detections, on the test dataset of a config.

ms-detr evaluate ms_detr/ms_detr_r50_300q_12ep.py model_final.pth --num-gpus 8 [key=value ...]
ms-detr evaluate demo/ms_detr.py detections.json
ms-detr evaluate --compare output/a output/b
"""

import argparse
from pathlib import Path

from ms_detr.errors import ConfigError
from ms_detr.run_folder import COMPARED

from ._arguments import Words, count, expect_not, path, seed, share
from ._comparing import compare
from ._tasks import add_process_arguments, launched

JSON = ".json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("config", metavar="CONFIG", nargs="?", help="the config that the model was trained with; "
        "may be left out where runs are compared")  # fmt: skip
    add("weights", metavar="WEIGHTS", nargs="?",
        help="its checkpoint, a .pth file or a URL; or a .json file of COCO's results")  # fmt: skip
    add("opts", nargs="*", metavar="key=value", help="overrides: key=value, +key=value, ~key")
    add("--output", type=path, metavar="DIR", help="for pictures, tables and the page (default: "
        f"beside the detections; of a comparison {COMPARED})")  # fmt: skip
    add("--json", type=path, metavar="FILE", help="the numbers; - for the standard output")
    add("--threshold", type=share, metavar="SCORE", help="least score of what is drawn and "
        "confused (default: where F is largest)")  # fmt: skip
    add("--iou", type=share, default=0.5, help="that confused classes overlap by (default: 0.5)")
    add("--nms", type=share, metavar="IOU",
        help="of the NMS that is tried (default: the config's, or 0.7)")  # fmt: skip
    add("--worst", type=count, default=8, metavar="N", help="images that are drawn (default: 8)")
    add("--compare", action=Words, metavar="MODEL", help="two or more: folders of runs, "
        "checkpoints or .json files; the first is compared with each other one")  # fmt: skip
    add("--draws", type=count, default=1000, help="of the images, in a comparison (default: 1000)")
    add("--seed", type=seed, default=0, help="of the draws (default: 0)")
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate or compare; what is found goes into files, and in short to the terminal."""
    from ._evaluating import Looking, StudiedEvaluation, study_file

    if args.compare:
        return compare(args)
    if args.config is None or args.weights is None:
        raise ConfigError("evaluate what? CONFIG WEIGHTS, or --compare with two models or more")
    expect_not(args.opts, {"train.init_checkpoint": "WEIGHTS"})
    looking = Looking(args.output, args.json, args.threshold, args.iou, args.nms, args.worst)
    if args.weights.endswith(JSON):
        study_file(args.config, tuple(args.opts), Path(args.weights), looking)
        return 0
    looking.expect_places()
    return launched(StudiedEvaluation(args.config, tuple(args.opts), args.weights, looking), args)
