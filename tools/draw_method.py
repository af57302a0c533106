"""Draw the README's figure: a decoder layer of MS-DETR, its tap, and the terms of supervision.

python tools/draw_method.py docs/images/method.png
"""

import argparse
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch

WIDTH, HEIGHT = 124, 64
# The card is opaque, so that the figure reads the same on light and dark pages.
CARD, FRAME, FRAME_EDGE, INK, MUTED = "#ffffff", "#f1f4f8", "#c3cdd9", "#1f2328", "#57606a"
DASHED = (0, (4, 2))

Point = tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """How something is drawn, by when it is computed and whose it is."""

    edge: str
    fill: str
    line: Any
    meaning: str


INFERENCE = Kind("#1f5fa8", "#d6e6f7", "solid", "at inference too, the same work as the baseline's")
TRAINING = Kind("#6a737d", "#f0f1f3", DASHED, "in training alone")
ADDED = Kind("#b4540a", "#fde8d3", DASHED, "added or changed by MS-DETR")


def label(axes: Axes, at: Point, text: str, size: float = 10.5, **options: Any) -> None:
    """Text around a point."""
    options = {"color": INK, "ha": "center", "va": "center", **options}
    axes.text(*at, text, fontsize=size, zorder=5, linespacing=1.4, **options)


def rounded(axes: Axes, corner: Point, size: Point, **style: Any) -> None:
    """A rectangle with round corners, from its lower left one."""
    (x, y), (width, height) = corner, size
    shape = FancyBboxPatch(
        (x + 0.8, y + 0.8), width - 1.6, height - 1.6, boxstyle="round,pad=0.8", **style
    )
    axes.add_patch(shape)


def box(axes: Axes, corner: Point, size: Point, text: str, kind: Kind = INFERENCE) -> None:
    """A part of the model."""
    style = {"facecolor": kind.fill, "edgecolor": kind.edge, "linestyle": kind.line}
    rounded(axes, corner, size, linewidth=1.5, zorder=3, **style)
    label(axes, (corner[0] + size[0] / 2, corner[1] + size[1] / 2), text)


def term(
    axes: Axes, left: float, width: float, name: str, text: str, kind: Kind, change: str = ""
) -> None:
    """A term of supervision, at the bottom, and what MS-DETR changes about it."""
    box(axes, (left, 2), (width, 13), "", kind)
    label(axes, (left + width / 2, 12.4), f"term {name}", size=12, weight="bold")
    label(axes, (left + width / 2, 8.2 if change else 7), text, size=10)
    label(axes, (left + width / 2, 4), change, size=9, color=ADDED.edge)


def arrow(axes: Axes, *points: Point, kind: Kind = INFERENCE) -> None:
    """A line through points, with a head at the last one."""
    style = {"color": kind.edge, "linestyle": kind.line, "linewidth": 1.8}
    *way, before, end = points
    xs, ys = zip(*way, before, strict=True)
    axes.plot(xs, ys, zorder=2, **style)
    head = {"arrowstyle": "-|>", "mutation_scale": 15, "shrinkA": 0, "shrinkB": 0, **style}
    axes.annotate("", end, before, arrowprops=head, zorder=2)


def dot(axes: Axes, at: Point, kind: Kind = INFERENCE) -> None:
    """Where something branches off."""
    axes.add_patch(Circle(at, 0.9, facecolor=kind.edge, edgecolor=CARD, linewidth=1.2, zorder=4))


def draw_inference(axes: Axes) -> None:
    """The way of the queries, from left to right."""
    rounded(
        axes, (32, 32.4), (58, 18.6), facecolor=FRAME, edgecolor=FRAME_EDGE, linewidth=1.2, zorder=1
    )
    label(axes, (88.4, 48.8), "decoder layer × 6", size=11, ha="right", weight="bold")
    box(axes, (3, 35.5), (14, 10), "encoder")
    arrow(axes, (17, 40.5), (21.2, 40.5))
    for index in range(4):
        dot(axes, (24, 44.4 - 2.6 * index))
    label(axes, (24, 47.6), "queries")
    arrow(axes, (26.8, 40.5), (36, 40.5))
    box(axes, (36, 35.5), (14, 10), "cross-\nattention")
    arrow(axes, (50, 40.5), (59, 40.5))
    box(axes, (59, 35.5), (14, 10), "self-\nattention")
    arrow(axes, (73, 40.5), (77, 40.5))
    box(axes, (77, 35.5), (10, 10), "FFN")
    arrow(axes, (87, 40.5), (121, 40.5))
    label(axes, (109, 42.8), "to the next layer", color=MUTED)
    arrow(axes, (10, 45.5), (10, 55), (43, 55), (43, 45.5))
    label(axes, (26.5, 57), "image features", color=MUTED)
    dot(axes, (97, 40.5))
    arrow(axes, (97, 40.5), (97, 25.5))
    box(axes, (87, 19.5), (20, 6), "class and box heads")
    arrow(axes, (107, 22.5), (111, 22.5))
    box(axes, (111, 19.5), (11, 6), "detections")
    label(axes, (116.5, 27.2), "last layer", size=9, color=MUTED)


def draw_training(axes: Axes) -> None:
    """What branches off to the terms."""
    color = {"color": ADDED.edge}
    arrow(axes, (54.5, 40.5), (54.5, 31.5), kind=ADDED)
    dot(axes, (54.5, 40.5), ADDED)
    label(axes, (54.5, 43.6), "tap", size=12, weight="bold", **color)
    label(axes, (73, 34), "cross-attention first: MS-DETR's order", size=9, **color)
    box(axes, (44.5, 27), (20, 4.5), "FFN of the tap", ADDED)
    arrow(axes, (54.5, 27), (54.5, 25), kind=ADDED)
    box(axes, (44.5, 19.5), (20, 5.5), "class and box heads", ADDED)
    axes.plot((64.5, 87), (22.25, 22.25), color=MUTED, linestyle=":", linewidth=1.6, zorder=2)
    label(axes, (75.75, 23.9), "shared weights", size=9, color=MUTED)
    arrow(axes, (54.5, 19.5), (54.5, 15), kind=ADDED)
    arrow(axes, (97, 19.5), (97, 15), kind=TRAINING)
    arrow(axes, (10, 35.5), (10, 15), kind=TRAINING)
    label(axes, (11.4, 25.5), "proposals of\nthe first stage", size=9, ha="left", color=MUTED)
    term(
        axes, 3, 32, "encoder",
        "one-to-one: one proposal\nlearns that there is an object", TRAINING,
        "matched on anchors, not on predicted boxes",
    )  # fmt: skip
    term(
        axes, 38, 36, "o2m",
        "one-to-many: up to 6 queries learn an\nobject, those of the best class and box", ADDED,
    )  # fmt: skip
    term(
        axes, 77, 45, "o2o",
        "one-to-one, by Hungarian matching: one query\n"
        "learns an object, the others that they have none",
        TRAINING, "classes weigh 1 instead of 2",
    )  # fmt: skip


def draw_legend(axes: Axes) -> None:
    """What the three kinds mean."""
    for index, kind in enumerate((INFERENCE, TRAINING, ADDED)):
        y = 61 - 2.9 * index
        style = {"color": kind.edge, "linestyle": kind.line, "linewidth": 2.2}
        axes.plot((71, 76), (y, y), **style)
        label(axes, (77.5, y), kind.meaning, ha="left")


def main() -> None:
    """Draw to the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="the picture, a .png or .svg file")
    args = parser.parse_args()
    matplotlib.use("Agg")
    figure = plt.figure(figsize=(WIDTH / 10, HEIGHT / 10), facecolor=CARD)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.axis("off")
    for part in (draw_inference, draw_training, draw_legend):
        part(axes)
    figure.savefig(args.output, dpi=150, facecolor=CARD)


if __name__ == "__main__":
    main()
