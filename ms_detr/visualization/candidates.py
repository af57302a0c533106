"""The best-scored boxes of models, duplicates and all (MS-DETR, arXiv:2401.03989, Fig. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detectron2.data import MetadataCatalog
from matplotlib import colormaps
from omegaconf import DictConfig

from ..evaluation import evaluating
from ..meta_arch import GeneralizedDETR
from .canvas import titled
from .scene import canvas, choose, side_by_side, write_picture


def draw_candidates(
    models: Mapping[str, GeneralizedDETR],
    loader: DictConfig,
    folder: Path,
    count: int = 8,
    top: int = 20,
) -> list[Path]:
    """Write a picture an image: annotations, then each model's ``top`` boxes, brighter with rank.

    Args:
        models: by name, in the order of the panels; all of the classes of the dataset.
        loader: the config's ``dataloader.test``.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_classes = next(iter(models.values())).num_classes
    chosen, mapper = choose(loader, num_classes, count)
    metadata = MetadataCatalog.get(loader.dataset.name)
    files = []
    for record in chosen:
        truth = canvas(record, metadata).draw_dataset_dict(record).get_image()
        panels = [titled(truth, "annotations")]
        for name, model in models.items():
            with evaluating(model):
                instances = model([mapper(record)])[0]["instances"].to("cpu")
            panel = canvas(record, metadata)
            # From the least score on, so that the best boxes are on top.
            boxes = instances.pred_boxes.tensor[:top].numpy()
            for rank in range(len(boxes) - 1, -1, -1):
                color = colormaps["plasma"](1 - rank / top)
                panel.draw_box(boxes[rank], alpha=0.9, edge_color=color)
            panels.append(titled(panel.output.get_image(), name))
        files.append(write_picture(folder, record, "candidates", side_by_side(panels)))
    return files
