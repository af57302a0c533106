"""Datasets in the forms in which they come: COCO, VOC, YOLO, LabelMe, a mask image an object."""

from .dataset import Dataset, Object, Options, Picture
from .importing import Imported, import_dataset
from .problems import Problems
from .reading import FORMATS, Format, read, recognise

__all__ = [
    "FORMATS",
    "Dataset",
    "Format",
    "Imported",
    "Object",
    "Options",
    "Picture",
    "Problems",
    "import_dataset",
    "read",
    "recognise",
]
