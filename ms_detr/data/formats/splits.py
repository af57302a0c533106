"""Splits that are made: at random, but the same for the same images, whatever they are called.

Images of the same pixels come into the same split, and so do those of which one name says that
they were made of one image (Roboflow's ``NAME.rf.HASH.jpg``); a model would otherwise be measured
on what it was trained on.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from tqdm import tqdm

from ...errors import ConfigError, DataError
from ..images import ImageError, OneAtATime, load_image, pixel_digest
from .dataset import SPLITS, Dataset, Picture
from .problems import Problems

DEFAULT = (0.8,)
THREADS = 4  # decoding releases the interpreter
_COPY = re.compile(r"(.+)\.rf\.[0-9A-Za-z]+\.\w+")


def check_shares(shares: Sequence[float]) -> None:
    """Raise ConfigError if these aren't the shares of train and perhaps val."""
    if not 1 <= len(shares) <= 2 or not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"split is {[*shares]}: give the share of train, as 0.8, or of train "
                          "and val, as 0.7 0.2; the rest is val, or test")  # fmt: skip
    if sum(shares) > 1 + 1e-9:
        raise ConfigError(f"split is {[*shares]}, more than 1 together")


def has_several(dataset: Dataset) -> bool:
    """Tell whether the images of a source lie in two splits or three."""
    return len({picture.split for picture in dataset.pictures} - {None}) > 1


def taken(dataset: Dataset, problems: Problems) -> Dataset:
    """Return a dataset in the splits of its source, without images that are in none."""
    pictures = []
    for picture in dataset.pictures:
        if picture.split is None:
            problems.lose_image("images in no split, where others are in one", picture.path)
        else:
            pictures.append(picture)
    return replace(dataset, pictures=pictures)


def divided(
    dataset: Dataset, shares: Sequence[float], problems: Problems, progress: bool = False
) -> Dataset:
    """Divide a dataset anew into train, val and test.

    Groups are drawn in the order of their contents' digests until a share is reached, so a split
    is as large as it should be but for a group.

    Args:
        shares: of train, or of train and val, of all images; the rest is val, or test.
        problems: takes images whose pixels can't be decoded, which are left out.

    Raises:
        DataError: a split that should have images would have none.
    """
    check_shares(shares)
    digests = _digests(dataset.pictures, problems, progress)
    pictures = [p for p in dataset.pictures if str(p.path) in digests]
    groups = _groups(pictures, [digests[str(p.path)] for p in pictures])
    bounds = [round(sum(shares[: i + 1]) * len(pictures)) for i in range(len(shares))]
    bounds = [*bounds, len(pictures)]
    taken, place = 0, 0
    split_of: dict[str, str] = {}
    for group in groups:
        # The split in which the group's middle lies.
        while place < len(bounds) - 1 and taken + len(group) / 2 > bounds[place]:
            place += 1
        split_of.update(dict.fromkeys((str(p.path) for p in group), SPLITS[place]))
        taken += len(group)
    wanted = [split for split, share in zip(SPLITS, _all(shares), strict=False) if share > 1e-9]
    if lacking := [split for split in wanted if split not in split_of.values()]:
        raise DataError(
            f"{len(pictures)} images in {len(groups)} groups of the same content are too few for "
            f"split {[*shares]}: {', '.join(lacking)} would be empty. --split 1 keeps all in train"
        )
    return replace(
        dataset, pictures=[replace(p, split=split_of[str(p.path)]) for p in pictures]
    )  # fmt: skip


def _all(shares: Sequence[float]) -> list[float]:
    return [*shares, 1 - math.fsum(shares)]


def _digests(pictures: Sequence[Picture], problems: Problems, progress: bool) -> dict[str, bytes]:
    """Return digests of the images' pixels, by path."""
    paths = [str(picture.path) for picture in pictures]
    found = {}
    digest_of = partial(_digest, alone=OneAtATime())
    with ThreadPoolExecutor(THREADS) as pool:
        results = tqdm(
            pool.map(digest_of, pictures), "comparing images", len(paths), unit="img",
            disable=None if progress else True,
        )  # fmt: skip
        try:
            for path, digest in zip(paths, results, strict=True):
                if isinstance(digest, bytes):
                    found[path] = digest
                else:
                    problems.lose_image("images that can't be read", digest)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _digest(picture: Picture, alone: OneAtATime) -> bytes | ImageError:
    try:
        with alone(picture.width, picture.height):
            return pixel_digest(load_image(picture.path)[0])
    except ImageError as error:
        return error


def _groups(pictures: Sequence[Picture], digests: Sequence[bytes]) -> list[list[Picture]]:
    """Join images of one content or origin; groups come in the order of their least digests."""
    parent = [*range(len(pictures))]

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[object, int] = {}
    for number, (picture, digest) in enumerate(zip(pictures, digests, strict=True)):
        origin = _COPY.fullmatch(picture.name)
        for key in filter(None, (digest, origin and origin[1])):
            parent[root(number)] = root(first.setdefault(key, number))
    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(pictures)):
        members[root(number)].append(number)
    ordered = sorted(members.values(), key=lambda group: min(digests[i] for i in group))
    return [[pictures[i] for i in group] for group in ordered]
