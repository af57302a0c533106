"""Average the weights of several checkpoints."""

import argparse

from ms_detr.errors import ConfigError

from ._arguments import count, path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "target", type=path, metavar="OUT", help="the .pth or .safetensors file to be written"
    )
    parser.add_argument(
        "sources", type=path, nargs="+", metavar="CKPT", help="checkpoints, or folders of runs"
    )
    parser.add_argument(
        "--last", type=count, metavar="N", help="of a folder: so many of its newest checkpoints"
    )


def run(args: argparse.Namespace) -> int:
    """Read, average, write."""
    from ms_detr.engine.archive import expect_new_weights, write_weights
    from ms_detr.engine.averaging import average_checkpoints, newest_of

    expect_new_weights(args.target)
    folders = [source for source in args.sources if source.is_dir()]
    if folders and args.last is None:
        raise ConfigError(f"{folders[0]} is a folder: say how many checkpoints, --last N")
    if args.last is not None and not folders:
        raise ConfigError("--last is about folders of runs, and only files are named")
    paths = [
        file
        for source in args.sources
        for file in (newest_of(source, args.last) if source in folders else [source])
    ]
    write_weights(args.target, average_checkpoints(paths))
    print(f"{args.target}: the average of {', '.join(map(str, paths))}")
    return 0
