"""A look at every image file of a dataset before it is used, so that no run ends by one later.

Headers are read, and no pixels: what is looked for is a file that is missing, no image, cut short,
of more than 8 bits, or of another size than the annotation file tells. What was found is kept
beside the annotation file; the next start reads files that have changed, and no others.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from detectron2.utils import comm
from PIL import Image

from ..errors import MissingFileError, listed, shortened
from ..files import write_text
from .images import Header, ImageError, chunks_to_end, open_image, read_header

logger = logging.getLogger(__name__)

KNOWN = ".image-headers"  # behind the annotation file's name
BAD = ".bad-images.txt"
VERSION = 1
THREADS = 16  # they wait for the disk
CHUNK = 256  # files a task
NAMED = 3  # in the error

Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change


@dataclass(frozen=True)
class Found:
    """What a file is: its header, or why it can't be used; as of its stamp."""

    stamp: Stamp | None = None
    header: Header | None = None
    problem: str | None = None
    is_missing: bool = False


def check_files(
    records: Sequence[Mapping], image_root: str, json_file: str, look_inside: bool
) -> None:
    """Check the image files of a dataset; with ``look_inside`` as `check_images` does.

    Raises:
        MissingFileError, ImageError: files are missing or can't be used.
    """
    if not look_inside:
        check_presence(records, image_root, json_file)
        return
    try:
        check_images(records, json_file)
    except MissingFileError:  # nothing else is wrong
        check_presence(records, image_root, json_file)  # which knows the likely reason
        raise


def check_images(records: Sequence[Mapping], json_file: str) -> None:
    """Read the headers of all image files, in one process of each machine.

    Args:
        records: dataset dicts with file_name, width, height and image_id.
        json_file: their annotation file, for messages; what was found is kept beside it if that
            folder can be written to.

    Raises:
        MissingFileError, ImageError: in all processes; says how many files can't be used, and
            where the list of all of them is.
    """
    trouble = _check(records, json_file) if comm.get_local_rank() == 0 else None
    troubles = [text for text in comm.all_gather(trouble) if text]
    if troubles:
        kind, message = troubles[0]
        raise kind(message)


def _check(
    records: Sequence[Mapping], json_file: str
) -> tuple[type[MissingFileError | ImageError], str] | None:
    """The error about all files, or None if all can be used."""
    files = [record["file_name"] for record in records]
    known = _read_known(json_file)
    many = sum(file not in known for file in files) >= CHUNK
    if many:
        logger.info(
            "looking into %d image files of %s; dataloader.check_images=false leaves that out",
            len(files), json_file,
        )  # fmt: skip
    start = time.perf_counter()
    found = examine(files, known)
    if many:
        logger.info("that took %.1f s; next time it is known", time.perf_counter() - start)
    if len(known) > len(found) or any(
        one.header and known.get(f) != one for f, one in found.items()
    ):
        _keep(found, json_file)
    problems, missing = [], 0
    for record in records:
        one = found[record["file_name"]]
        problem = one.problem
        if one.header and (wrong := one.header.problem(record["width"], record["height"])):
            problem = f"{record['file_name']} {wrong}"
        if problem:
            problems.append(f"image {record['image_id']}: {problem}")
            missing += one.is_missing
    turned = [(r, h) for r in records if (h := found[r["file_name"]].header) and h.orientation > 1]
    if not problems:
        if turned:
            logger.info(
                "%d of these images are turned upright by their orientation tags", len(turned)
            )
        _forget(json_file)
        return None
    message = (
        f"{json_file}: {len(problems)} of {len(records)} image files can't be used: "
        f"{listed(problems, NAMED, '; ')}"
        f"{_convention(turned)}{list_all(problems, json_file)}"
    )
    return (MissingFileError if missing == len(problems) else ImageError), message


def _convention(turned: Sequence[tuple[Mapping, Header]]) -> str:
    """Which size the annotation file gives for images that are stored sideways."""
    sideways = [(r, h) for r, h in turned if h.size != (h.width, h.height)]
    stored = sum(h.is_stored(r["width"], r["height"]) for r, h in sideways)
    if not stored:
        return ""
    return (
        f" Of {len(sideways)} images that are stored sideways, the annotation file gives the size "
        f"as stored for {stored}, and the upright image's for "
        f"{sum((r['width'], r['height']) == h.size for r, h in sideways)}."
    )


def examine(
    files: Sequence[str], known: Mapping[str, Found] | None = None, threads: int = THREADS
) -> dict[str, Found]:
    """What each file is; those whose stamp is known are not opened.

    Args:
        known: of an earlier look, by file.
        threads: of this process.
    """
    known = known or {}

    def look(chunk: Sequence[str]) -> list[Found]:
        return [_look(file, known.get(file)) for file in chunk]

    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        found = [one for part in pool.map(look, chunks) for one in part]
    return dict(zip(files, found, strict=True))


def _look(file: str, known: Found | None) -> Found:
    try:
        facts = os.stat(file)
        stamp = facts.st_size, facts.st_mtime_ns
        if known is not None and known.stamp == stamp:
            return known
        with open_image(file) as image:
            header = read_header(image)
            if _may_be_cut_short(image):
                image.load()
        return Found(stamp, header)
    except FileNotFoundError:
        return Found(problem=f"there is no image file {file}", is_missing=True)
    except ImageError as error:
        return Found(problem=str(error))
    except OSError as error:
        return Found(problem=f"{file} can't be read: {error.strerror}")


def _may_be_cut_short(image: Image.Image) -> bool:
    """Whether the mark is missing with which files of the format end, as a rule."""
    file = getattr(image, "fp", None)
    if file is None:
        return False
    if image.format == "PNG":
        return b"IEND" not in chunks_to_end(file)
    if image.format not in ("JPEG", "MPO"):
        return False
    position = file.tell()
    file.seek(-2, os.SEEK_END)
    end = file.read(2)
    file.seek(position)
    return end != b"\xff\xd9"


# --------------------------------------------------------------- files beside the annotation file


def _read_known(json_file: str) -> dict[str, Found]:
    """What was kept; nothing, if that can't be read for whatever reason."""
    try:
        content = json.loads(Path(json_file + KNOWN).read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return {}
        return {
            file: Found((size, changed), Header(*header))
            for file, (size, changed, *header) in content["headers"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _keep(found: Mapping[str, Found], json_file: str) -> None:
    headers = {
        file: [*one.stamp, *astuple(one.header)]
        for file, one in found.items()
        if one.header and one.stamp
    }
    try:
        write_text(json_file + KNOWN, json.dumps({"version": VERSION, "headers": headers}))
    except OSError as error:
        logger.info("the next start checks all images again: %s", error)


def list_all(problems: Sequence[str], json_file: str) -> str:
    """Write a list of all for an error that names `NAMED`; says where, nothing if that is all.

    It is beside the annotation file, or, where that folder can't be written to, in the log.
    """
    if len(problems) <= NAMED:
        return ""
    try:
        write_text(json_file + BAD, "\n".join([*problems, ""]))
    except OSError:
        logger.error("all image files that can't be used:\n%s", "\n".join(problems))
        return " (the log lists all of them)"
    return f" (all of them are listed in {json_file}{BAD})"


def _forget(json_file: str) -> None:
    """Remove the list of an earlier start: nothing on it is true any more."""
    try:
        Path(json_file + BAD).unlink(missing_ok=True)
    except OSError as error:
        logger.info("%s", error)


def check_presence(records: Sequence[Mapping], image_root: str, json_file: str) -> None:
    """Check that every image file is there. Lists each folder once: one stat a file is slow."""
    found: dict[str, set[str]] = {}
    missing = []
    for record in records:
        folder, file = os.path.split(record["file_name"])
        if folder not in found:
            found[folder] = set()
            if os.path.isdir(folder):
                with os.scandir(folder) as entries:  # is_file: there are folders called a.png, too
                    found[folder] = {entry.name for entry in entries if entry.is_file()}
        if file not in found[folder]:
            missing.append(record["file_name"])
    if missing:
        inside = os.path.join(image_root, "")
        names = [path.removeprefix(inside) for path in missing]
        hint = ""
        if os.path.isabs(names[0]) and not missing[0].startswith(inside):
            hint = ". Absolute paths are not looked for in that folder: write them without it"
        elif "\\" in names[0]:
            hint = ". They are written for Windows: write / instead of \\"
        raise MissingFileError(
            f"{len(missing)} image file(s) of {json_file} are not in {image_root}: "
            f"{listed(map(shortened, names), NAMED)}{hint}"
            f"{list_all(missing, json_file)}"
        )
