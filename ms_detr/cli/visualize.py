"""Draw what a trained model predicts on its test images, beside the annotations."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--config-file", required=True, help="config the model was trained with")
    parser.add_argument("--weights", required=True, type=Path, help="checkpoint, a .pth file")
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--count", type=int, default=16, help="images (default: 16)")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="least score that is drawn (default: 0.3)"
    )
    parser.add_argument("opts", nargs="*", help="config overrides, key=value")


def run(args: argparse.Namespace) -> int:
    """Draw, and say where."""
    from ms_detr.config import load
    from ms_detr.engine import load_model
    from ms_detr.visualization import draw_predictions

    if args.count < 1:
        raise ValueError(f"--count must be at least 1, got {args.count}")
    cfg = load(args.config_file, args.opts)
    model = load_model(cfg, str(args.weights))
    files = draw_predictions(
        model, cfg.dataloader.test, args.output, count=args.count, threshold=args.threshold
    )
    print(f"{len(files) - 1} images drawn; all of them in {files[0]}")
    return 0
