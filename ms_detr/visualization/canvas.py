"""An image with boxes, masks and labels on it, a colour a class."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from ..data.segmentation import parse, to_bitmap
from .fonts import families

Color = tuple[float, float, float]
# No grey, and no red, in which mistakes are marked.
FIRST_COLORS = [to_rgb(colormaps["tab10"](k)) for k in range(10) if k not in (3, 7)]
GOLDEN = (5**0.5 - 1) / 2  # multiples of it, less their whole parts, never come close
BOX_ALPHA = 0.9
LABEL_SIZE, LABEL_PADDING = 11, 2  # pixels
TITLE_HEIGHT = 24  # pixels
DPI = 100


def class_color(label: int) -> Color:
    """The colour of a class, the same in all pictures; near classes have unlike ones."""
    if label < len(FIRST_COLORS):
        return FIRST_COLORS[label]
    return colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.9 - 0.3 * (label % 2), 0.95)


def text_color(background: Any) -> str:
    """Black or white, whichever can be read on a colour (WCAG 2, relative luminance)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background)
    ]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


class Canvas(Visualizer):
    """Detectron2's, with a colour a class, and masks that end at pixels and keep their holes."""

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of a record of a dataset."""
        annotations = dic.get("annotations", [])
        boxes = [
            BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
            for item in annotations
        ]
        masks = None
        if annotations and all("segmentation" in item for item in annotations):
            masks = [item["segmentation"] for item in annotations]
        classes = [item["category_id"] for item in annotations]
        crowds = ["(crowd)" if item.get("iscrowd") else "" for item in annotations]
        return self.overlay_instances(
            boxes=np.reshape(boxes, (-1, 4)),
            masks=masks,
            labels=[self._label(c, crowd) for c, crowd in zip(classes, crowds, strict=True)],
            assigned_colors=[class_color(label) for label in classes],
        )

    def draw_instance_predictions(self, predictions: Instances) -> VisImage:
        """Draw detections, on the CPU, with their scores."""
        classes = predictions.pred_classes.tolist()
        scores = predictions.scores.tolist()
        return self.overlay_instances(
            boxes=predictions.pred_boxes.tensor.numpy(),
            masks=list(predictions.pred_masks.numpy()) if predictions.has("pred_masks") else None,
            labels=[self._label(c, f"{s:.0%}") for c, s in zip(classes, scores, strict=True)],
            assigned_colors=[class_color(label) for label in classes],
        )

    def overlay_instances(
        self,
        *,
        boxes: np.ndarray | None = None,
        masks: Sequence[Any] | None = None,
        labels: Sequence[str] | None = None,
        assigned_colors: Sequence[Any],
    ) -> VisImage:
        """Draw masks, half transparent with an outline, over them boxes, over those labels.

        Args:
            boxes: (n, 4) corners in pixels of the image.
            masks: bitmaps, or segmentations of a dataset.
            labels: at the boxes' corners; where there is no room for one, the colour has to do. An
                empty one is none.
            assigned_colors: of the objects.
        """
        for mask, color in zip(masks or (), assigned_colors, strict=False):
            self._draw_mask(mask, color)
        if boxes is None:
            return self.output
        # The largest first, that small ones are not hidden.
        order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
        for k in order:
            self.draw_box(boxes[k], alpha=BOX_ALPHA, edge_color=assigned_colors[k])
        if labels is not None:
            taken: list[Bbox] = []
            for k in filter(labels.__getitem__, range(len(boxes))):
                self._draw_label(labels[k], boxes[k], assigned_colors[k], taken)
        return self.output

    def _label(self, label: int, remark: str) -> str:
        """A class's name and a remark; of data with one class the remark alone."""
        names = self.metadata.get("thing_classes")
        if names and len(names) == 1:
            return remark
        return f"{names[label] if names else label} {remark}".rstrip()

    def _draw_label(self, label: str, box: np.ndarray, color: Any, taken: list[Bbox]) -> None:
        """Write a label on its colour where it covers no other; `taken` is where those are."""
        x0, y0, x1, y1 = box
        dpi = self.output.fig.dpi
        text = self.output.ax.text(
            x0,
            y0,
            label,
            size=LABEL_SIZE * 72 / dpi,
            family=families(label),
            color=text_color(color),
            bbox={"facecolor": color, "edgecolor": "none", "pad": LABEL_PADDING * 72 / dpi},
            verticalalignment="bottom",
            zorder=10,
        )
        extent = text.get_window_extent(self.output.canvas.get_renderer())
        width, height = (extent.size + 2 * LABEL_PADDING) / self.output.scale
        # Above the box, in it, where it is large enough, and below, from either side.
        small = y1 - y0 < 2 * height
        for bottom in (y0, y1 + height, y0 + height) if small else (y0, y0 + height, y1 + height):
            for left in (x0, x1 - width):
                left = min(max(left, 0.0), max(self.output.width - width, 0.0))
                place = Bbox.from_bounds(left, bottom - height, width, height)
                inside = place.y0 >= 0 and place.y1 <= self.output.height
                if inside and not any(place.overlaps(other) for other in taken):
                    taken.append(place)
                    padding = LABEL_PADDING / self.output.scale
                    text.set_position((left + padding, bottom - padding))
                    return
        text.remove()

    def _draw_mask(self, mask: Any, color: Any) -> None:
        height, width = self.output.height, self.output.width
        bitmap = to_bitmap(parse(mask, height, width), height, width)
        if not bitmap.any():
            return
        # Values lie at the centres of pixels, so that the half lies at their edges.
        grid = np.arange(-0.5, width + 1), np.arange(-0.5, height + 1), np.pad(bitmap, 1)
        self.output.ax.autoscale(False)
        self.output.ax.contourf(*grid, levels=(0.5, 1.5), colors=[color], alpha=0.5)
        self.output.ax.contour(*grid, levels=(0.5,), colors=[color])


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """An image, uint8 RGB, under a line of text."""
    width = image.shape[1]
    figure = Figure(figsize=(width / DPI, TITLE_HEIGHT / DPI), dpi=DPI)
    text = figure.text(4 / width, 0.5, title, size=10, verticalalignment="center")
    text.set_fontfamily(families(title))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    line = np.asarray(canvas.buffer_rgba())[:, :width, :3]
    return np.vstack((line, image))
