"""A look at every image file of a dataset before it is used, so that no run ends by one later.

What is looked for is a file that is missing, no image, cut short, of more than 8 bits, or of
another size than the annotation file tells.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.utils import comm

from ..errors import MissingFileError, listed, shortened
from ..files import write_text
from .image_headers import read_headers
from .images import Header, ImageError

logger = logging.getLogger(__name__)

BAD = ".bad-images.txt"  # behind the annotation file's name
NAMED = 3  # in the error


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
    """Check all image files by their headers, in one process of each machine.

    Args:
        records: dataset dicts with file_name, width, height and image_id.
        json_file: their annotation file, for messages; what was found is kept beside it if that
            folder can be written to.

    Raises:
        MissingFileError, ImageError: in all processes; says how many files can't be used, and
            where the list of all of them is.
    """
    error = _problem(records, json_file) if comm.get_local_rank() == 0 else None
    for problem in comm.all_gather(error):
        if problem is not None:
            raise problem


def _problem(records: Sequence[Mapping], json_file: str) -> MissingFileError | ImageError | None:
    """Return the error about all files, or None if all can be used."""
    found = read_headers([record["file_name"] for record in records], json_file)
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
    return MissingFileError(message) if missing == len(problems) else ImageError(message)


def _convention(turned: Sequence[tuple[Mapping, Header]]) -> str:
    """Say which size the annotation file gives for images that are stored sideways."""
    sideways = [(r, h) for r, h in turned if h.size != (h.width, h.height)]
    stored = sum(h.is_stored(r["width"], r["height"]) for r, h in sideways)
    if not stored:
        return ""
    return (
        f" Of {len(sideways)} images that are stored sideways, the annotation file gives the size "
        f"as stored for {stored}, and the upright image's for "
        f"{sum((r['width'], r['height']) == h.size for r, h in sideways)}."
    )


def list_all(problems: Sequence[str], json_file: str) -> str:
    """Write the whole list for an error that names `NAMED`, and say where, if there are more.

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
    """Remove the list of an earlier start, of which nothing is true any more."""
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
