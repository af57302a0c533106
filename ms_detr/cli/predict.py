"""Find objects in images and videos: pictures, COCO's results, CSV.

ms-detr predict photo.jpg photos clip.mp4 'more/**/*.png' --weights model_final.pth
ms-detr predict - --weights model_final.pth --json -
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ms_detr.errors import ConfigError, DataError, MissingFileError

from ._arguments import STDOUT, count, expect_folder, path

if TYPE_CHECKING:
    from ms_detr.data.sources import SourceFile
    from ms_detr.engine import Predictor
    from ms_detr.evaluation.listing import Listed

PICTURES = Path("output/predictions")
UNREAD = 1  # exit code where something could not be read, and the rest was predicted
NOTHING = 2  # where nothing was predicted
# Names of files may be no text: the same bytes stand in what is written.
ENCODING, ERRORS = "utf-8", "surrogateescape"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="image or video; folder, for all that it and "
        "its subfolders have; pattern in quotes; - for an image on the standard input")  # fmt: skip
    add("--weights", required=True, metavar="FILE", help="checkpoint, or its URL")
    add("--config-file", metavar="CONFIG", help="for weights that keep no config")
    add("--opts", nargs="*", default=[], metavar="key=value", help="overrides of that config")
    add("--output", type=path, metavar="DIR",
        help=f"for pictures (default: {PICTURES}, without --json and --csv)")  # fmt: skip
    add("--json", type=path, metavar="FILE", help="COCO's results; - for the standard output")
    add("--csv", type=path, metavar="FILE", help="a row an object; - for the standard output")
    add("--threshold", type=float, default=0.3, help="least score of an object (default: 0.3)")
    add("--classes", nargs="+", metavar="CLASS", help="names or numbers (default: all)")
    add("--top", type=count, metavar="N", help="so many objects of an image at most, the best")
    add("--nms", type=float, metavar="IOU", help="keep the better of two boxes of a class that "
        "overlap by more (default: both)")  # fmt: skip
    add("--tile", type=count, metavar="SIZE",
        help="cut images with a longer side into tiles of so many pixels")  # fmt: skip
    add("--overlap", type=float, default=0.25, metavar="PART", help="of a tile's side, shared with "
        "the next one; objects of up to 3/4 of it are found whole (default: 0.25)")  # fmt: skip
    add("--max-pixels", type=count, metavar="N",
        help="refuse images of more, as decompression bombs (default: 178956970)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Predict, and say what was found; 1 if something could not be read, 2 if nothing could."""
    from ms_detr.data.images import MAX_PIXELS, at_most
    from ms_detr.data.sources import find_sources
    from ms_detr.signals import Terminated, raised

    from ._predicting import Predicting
    from ._progress import Counter

    if args.output is None and args.json is None and args.csv is None:
        args.output = PICTURES
    if args.json == args.csv == STDOUT:
        raise ConfigError("--json and --csv can't both go to the standard output")
    sources, problems = find_sources(args.sources, [args.output] if args.output else [])
    if not sources:
        raise ConfigError("; ".join(problems))
    _expect_places(args, sources)
    predictor = _predictor(args)
    stopped: BaseException | None = None
    with Counter(sum(map(_length, sources)), "images") as counter:
        predicting = Predicting(predictor, args.output, counter)
        for problem in problems:
            predicting.skip(problem)
        try:
            with raised(), at_most(args.max_pixels or MAX_PIXELS):
                predicting.all(sources)
        except BaseException as error:  # what was found until then is written all the same
            stopped = error
    places = _write(args, predicting.listed, predictor.class_names)
    to_stderr = STDOUT in (args.json, args.csv)
    summary = "; ".join([predicting.summary(), *places])
    print(summary, file=sys.stderr if to_stderr else sys.stdout, flush=True)
    if isinstance(stopped, (KeyboardInterrupt, Terminated)):
        raise type(stopped)("interrupted: what was finished until then stays")
    if stopped is not None:
        raise stopped
    if not predicting.skipped:
        return 0
    return UNREAD if predicting.done else NOTHING


def _predictor(args: argparse.Namespace) -> "Predictor":
    from ms_detr.config import load
    from ms_detr.engine import Predictor

    if args.opts and args.config_file is None:
        raise ConfigError("--opts are overrides of the config that --config-file names")
    return Predictor(
        args.weights,
        load(args.config_file, args.opts) if args.config_file is not None else None,
        threshold=args.threshold,
        classes=args.classes,
        top=args.top,
        nms=args.nms,
        tile=args.tile,
        overlap=args.overlap,
    )


def _expect_places(args: argparse.Namespace, sources: Sequence["SourceFile"]) -> None:
    """Make sure, before anything is predicted, that results can be written, and over nothing else.

    Raises:
        OSError: the system can't write there.
        ConfigError: what is read, or another result, would be lost.
    """
    files = [file for file in (args.json, args.csv) if file not in (None, STDOUT)]
    read = [*(source.path for source in sources), args.weights, args.config_file or args.weights]
    pictures = [args.output / source.picture for source in sources] if args.output else []
    taken = {
        os.path.realpath(file): "to be read and to be written" for file in read if file is not None
    }
    for file in (*pictures, *filter(_is_whole, files)):
        place = os.path.realpath(file)
        if place in taken:
            raise ConfigError(f"{file} is {taken[place]}: choose another place")
        taken[place] = "to be written twice"
    for file in files:
        if file.is_dir():
            raise ConfigError(f"{file} is a folder: give a file")
    folders = {_linked(file).parent for file in files if _is_whole(file)}
    for folder in folders | ({args.output} if args.output else set()):
        expect_folder(folder)


def _is_whole(file: Path) -> bool:
    """Tell whether a file is put into its place once it is whole: pipes and devices aren't."""
    return file.is_file() or not file.exists()


def _linked(file: Path) -> Path:
    return Path(os.path.realpath(file)) if file.is_symlink() else file


def _length(source: "SourceFile") -> int:
    """The number of images; 1 of a video that can't be opened, of which is heard later."""
    from ms_detr.data.video import open_video

    if not source.is_video:
        return 1
    try:
        with open_video(source.path) as video:
            return max(1, video.count)
    except (DataError, MissingFileError):
        return 1


def _write(
    args: argparse.Namespace, listed: Sequence["Listed"], class_names: Sequence[str]
) -> list[str]:
    """Write what was found, by the number of the image, and say where."""
    from ms_detr.evaluation.listing import write_csv, write_json
    from ms_detr.files import atomic_path, explained

    ordered = sorted(listed, key=lambda one: one.objects.image_id)
    places = [] if args.output is None else [f"pictures in {args.output}"]
    for file, write in ((args.json, write_json), (args.csv, write_csv)):
        if file == STDOUT:
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding=ENCODING, errors=ERRORS)
            write(sys.stdout, ordered, class_names)
        elif file is not None:
            # A link stays, and its file is replaced.
            whole = atomic_path(_linked(file)) if _is_whole(file) else explained(file)
            with (
                whole as place,
                (place or file).open("w", encoding=ENCODING, errors=ERRORS) as stream,
            ):
                write(stream, ordered, class_names)
            places.append(str(file))
    return places
