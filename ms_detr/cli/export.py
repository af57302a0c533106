"""Write a trained model as a file of ONNX or torch.export, which runs without ms_detr.

ms-detr export --weights model_final.pth --format onnx --check photo.jpg
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_detr.errors import ConfigError

from ._arguments import count, expect_folder, path, share

if TYPE_CHECKING:
    from ms_detr.exporting import Difference
    from ms_detr.meta_arch import GeneralizedDETR

FORMATS = ("onnx", "torch-export")
DIFFERENT = 1  # exit code where the file's predictions aren't the model's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="checkpoint, or its URL")
    add("--config-file", metavar="CONFIG", help="for weights that keep no config")
    add("--opts", nargs="*", default=[], metavar="key=value", help="overrides of that config")
    add("--format", choices=FORMATS, default="onnx", help="of the file (default: onnx)")
    add("--output", type=path, metavar="FILE",
        help="where to (default: the name of the weights, with the format's ending)")  # fmt: skip
    add("--masks", action="store_true", help="of a model that has them, too")
    add("--gather", action="store_true",
        help="sample by gathers: TensorRT is reported to compute grid_sample wrongly")  # fmt: skip
    add("--no-preprocess", dest="preprocess", action="store_false",
        help="take normalised images instead of uint8 ones in RGB")  # fmt: skip
    add("--no-postprocess", dest="postprocess", action="store_false",
        help="give what all queries predict instead of detections")  # fmt: skip
    add("--batch", type=count, metavar="N", help="always so many images (default: any number)")
    add("--size", type=count, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of all padded images (default: any)")  # fmt: skip
    add("--check", nargs="+", default=[], metavar="IMAGE",
        help="compare the file with PyTorch on images; status 1 where they differ")  # fmt: skip
    add("--tolerance", type=share, default=1e-3, metavar="T", help="of scores, of boxes in "
        "fractions of the image, of the part of a mask (default: 0.001)")  # fmt: skip
    add("--json", action="store_true", help="print what --check found as JSON")


def run(args: argparse.Namespace) -> int:
    """Export, and check the file."""
    from ms_detr.config import load
    from ms_detr.engine import load_model
    from ms_detr.exporting import FORMATS as KINDS
    from ms_detr.exporting import Form, compare, export
    from ms_detr.exporting.comparison import batches_of
    from ms_detr.exporting.writing import expect_new
    from ms_detr.signals import raised

    if args.opts and args.config_file is None:
        raise ConfigError("--opts are overrides of the config that --config-file names")
    kind = KINDS[args.format]
    output = args.output or Path(Path(args.weights).stem + kind.suffix)
    expect_new(output, kind.suffix)
    kind.expect_packages(*(("onnxruntime",) if args.check and args.format == "onnx" else ()))
    expect_folder(output.parent)
    form = Form(
        args.preprocess,
        args.postprocess,
        args.masks,
        args.gather,
        args.batch,
        None if args.size is None else (args.size[0], args.size[1]),
    )
    cfg = load(args.config_file, args.opts) if args.config_file is not None else None
    with raised():
        model = load_model(args.weights, cfg)
        batches = batches_of(_inputs(model, args.check), form, model)
        export(model, output, args.format, form, _say)
        print(f"{output}: {output.stat().st_size / 1e6:.1f} MB", file=_facts(args), flush=True)
        if left_out := model.postprocess.nms if args.postprocess else None:
            _say(f"{type(left_out).__name__} isn't in the file: it gives what that would be given")
        if not args.check:
            return 0
        _say("comparing it with PyTorch")
        found = compare(model, kind.open(output), form, batches, args.tolerance)
        return _tell(args, output, found[: len(args.check)])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _facts(args: argparse.Namespace) -> Any:
    return sys.stderr if args.json else sys.stdout


def _inputs(model: "GeneralizedDETR", images: list[str]) -> list[dict[str, Any]]:
    """The mapper's inputs of image files."""
    from ms_detr.engine.prediction import read_image, usage_of

    mapper = usage_of(model, None).mapper
    return [mapper.map_image(read_image(x, x, mapper.image_format), x) for x in images]


def _tell(args: argparse.Namespace, output: Path, found: "list[Difference]") -> int:
    """Print how much the file and PyTorch differ on each image; 1 if by more than is tolerated."""
    from ms_detr.evaluation.results import without_nan
    from ms_detr.exporting import Difference

    named = list(zip(args.check, found, strict=True))
    good = all(one.within(args.tolerance) for _, one in named)
    if args.json:
        rows = [{"image": name, **vars(one)} for name, one in named]
        content = {"images": rows, "tolerance": args.tolerance, "agrees": good}
        print(json.dumps(without_nan(content), indent=1))
    else:
        print(_table([*named, ("all", Difference.worst([one for _, one in named]))], args.masks))
    if not good:
        _say(f"{output} and PyTorch differ by more than {args.tolerance:g}")
    return 0 if good else DIFFERENT


def _table(rows: "list[tuple[str, Difference]]", masks: bool) -> str:
    from tabulate import tabulate

    titles = ["image", "objects", "missing", "scores", "boxes", *(["masks"] if masks else [])]
    cells = [[name, *(f"{x:.3g}" for x in vars(one).values())][: len(titles)] for name, one in rows]
    return tabulate(cells, titles, tablefmt="pipe", disable_numparse=True)
