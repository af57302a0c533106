"""Generate the demo dataset, train MS-DETR on it, evaluate, draw predictions."""

import argparse
import time
from pathlib import Path

from ms_detr.errors import ConfigError
from ms_detr.run_folder import FINAL, LOG, METRICS

from ._processes import processes
from ._runs import TRAIN

CONFIG = "demo/ms_detr.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--config-file", default=CONFIG, help=f"a config of the demo's dataset (default: {CONFIG})"
    )
    parser.add_argument(
        "--data-only", action="store_true", help="make the dataset if it is missing, and stop"
    )
    parser.add_argument("opts", nargs="*", help="config overrides, key=value")


def run(args: argparse.Namespace) -> int:
    """All steps; a demo that was interrupted goes on, one that is finished is shown again."""
    from ms_detr.config import load
    from ms_detr.data.demo import NAME, generate_demo
    from ms_detr.engine import load_model
    from ms_detr.visualization import draw_predictions

    cfg = load(args.config_file, args.opts)
    output = Path(cfg.train.output_dir)
    annotations = cfg.dataloader.test.dataset.annotations
    if annotations is None or cfg.dataloader.test.dataset.name != f"{NAME}_val":
        raise ConfigError(
            f"{args.config_file} isn't a config of the demo dataset: see configs/demo"
        )

    generate_demo(Path(annotations).parents[1])
    if args.data_only:
        return 0
    start = time.perf_counter()
    command = [*TRAIN, args.config_file, "--resume", *args.opts]
    with processes() as started:
        status = started.run(command)
    if status:
        return status
    minutes = (time.perf_counter() - start) / 60
    model = load_model(output / FINAL, cfg)
    files = draw_predictions(model, cfg.dataloader.test, output / "pictures")
    print(f"\ntraining and evaluation: {minutes:.1f} minutes")
    print(f"pictures: {files[0]}")
    print(f"logs:     {output / LOG}, {output / METRICS}; tensorboard --logdir {output}")
    print(f"to train it anew, remove {output}")
    return 0
