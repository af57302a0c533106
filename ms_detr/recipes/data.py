"""Data: which datasets, how they are augmented, how they are evaluated.

For data of your own give ``name``, ``images`` and ``annotations`` of both datasets.
"""

import os
from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..data import (
    CopyPaste,
    DetrMapper,
    PadToSquare,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
    coco_dataset,
    detr_augmentations,
    lsj_augmentations,
    resize_and_flip,
)
from ..data.demo import NAME as DEMO
from ..evaluation import CocoEvaluator, LvisEvaluator
from ..run_folder import EVALUATION

MASKS = "${dataloader.masks}"


def coco(masks: bool = False) -> DictConfig:
    """COCO 2017 with DETR's augmentation; found through the variable DETECTRON2_DATASETS.

    Args:
        masks: in the datasets, the training targets and the evaluation.

    Attributes:
        check_images: look at all image files before a run.
        annotation_cache: where what was read of large annotation files is kept: a folder; null:
            beside the annotations; false: nowhere.
        own: of `ms-detr train` and train_net.py alone: data of any form in place of the datasets.
        own.folder: where they are; null: the datasets are those of the config.
        own.split: shares in which all images are divided anew; null takes the folder's splits.
        own.form: its name, as `ms-detr import` has it, or auto.
        own.converted: where data are kept that had to be converted; null: beside the run's folder.
    """
    dataloader = dict(
        masks=masks,
        check_images=True,
        annotation_cache=None,
        own=dict(folder=None, split=None, form="auto", converted=None),
        train=L(build_train_loader)(
            dataset=_dataset("coco_2017_train"),
            mapper=_mapper(L(detr_augmentations)(), is_train=True),
            total_batch_size=16,
            max_bad_images=0,
            copy_paste=None,
            num_workers=4,
            seed="${train.seed}",
        ),
        test=L(build_test_loader)(
            dataset=_dataset("coco_2017_val", evaluated=True),
            mapper=_mapper(
                [L(ResizeShortestEdge)(short_edge_length=800, max_size=1333)], is_train=False
            ),
            batch_size=1,
            num_workers=4,
        ),
        evaluator=L(CocoEvaluator)(
            dataset_name="${dataloader.test.dataset.name}",
            output_dir=f"${{train.output_dir}}/{EVALUATION}",
            nms_threshold=None,
            max_detections=100,  # COCO's, of a class in an image; more needs postprocess.top_k
            masks=MASKS,
        ),
    )
    return DictConfig(dataloader, flags={"allow_objects": True})


def coco_lsj(masks: bool = True, size: int = 1024, pad_value: float = 128.0) -> DictConfig:
    """COCO with large-scale jitter, as instance segmentation is trained with long schedules.

    Args:
        size: side of the training images.
        pad_value: what fills them up, from 0 to 255.
    """
    dataloader = coco(masks)
    dataloader.train.mapper.augmentations = L(lsj_augmentations)(size=size, pad_value=pad_value)
    return dataloader


def lvis(masks: bool = False) -> DictConfig:
    """LVIS v1 with DETR's augmentation and LVIS's metric, for 1,203 classes: see `federated`."""
    dataloader = coco(masks)
    dataloader.train.dataset.name = "lvis_v1_train"
    dataloader.test.dataset.name = "lvis_v1_val"
    dataloader.evaluator = L(LvisEvaluator)(
        dataset_name="${dataloader.test.dataset.name}",
        output_dir=f"${{train.output_dir}}/{EVALUATION}",
        max_detections=300,
        masks=MASKS,
    )
    return dataloader


def copy_paste(dataloader: DictConfig, max_objects: int = 100) -> DictConfig:
    """Paste objects of other images onto each training image, see `ms_detr.data.CopyPaste`.

    The training data have masks for it, also where the model learns boxes alone.

    Args:
        dataloader: whose training images are of one size, such as `coco_lsj`.
        max_objects: so many at most.
    """
    dataloader.train.dataset.masks = dataloader.train.mapper.masks = True
    dataloader.train.copy_paste = L(CopyPaste)(max_objects=max_objects, masks=MASKS)
    return dataloader


def square_tests(dataloader: DictConfig, size: int = 1024, pad_value: float = 114.0) -> DictConfig:
    """Test on squares: images are resized to a longer side and padded, as Co-DETR's with jitter.

    The padding is image to the model, as in training with large-scale jitter; boxes and masks are
    told in pixels of the image file all the same.

    Args:
        size: side of the squares.
        pad_value: what fills them up, from 0 to 255.
    """
    dataloader.test.mapper.augmentations = [
        L(ResizeShortestEdge)(short_edge_length=size, max_size=size),
        L(PadToSquare)(size=size, pad_value=pad_value),
    ]
    return dataloader


def small_data(name: str, masks: bool = False) -> DictConfig:
    """A dataset for CPUs, as `ms-detr import` writes it to ``datasets/NAME``; images are resized.

    Attributes:
        short_edge: length in pixels to which the shorter side of images is resized; null: they
            stay as they are.
    """
    root = data_folder(name)
    dataloader = coco(masks)
    dataloader.short_edge = None
    for split, loader in (("train", dataloader.train), ("val", dataloader.test)):
        loader.dataset.name = f"{name}_{split}"
        loader.dataset.images = os.path.join(root, split)
        loader.dataset.annotations = os.path.join(root, "annotations", f"{split}.json")
        # A loader process would compete with the compute threads.
        loader.num_workers = 0
        loader.mapper.augmentations = L(resize_and_flip)(short_edge="${dataloader.short_edge}")
    dataloader.test.batch_size = 8
    # AP after NMS beside AP: the difference is what duplicate detections cost.
    dataloader.evaluator.nms_threshold = 0.7
    return dataloader


def data_folder(name: str) -> str:
    """Return the folder of a dataset of `small_data`: in DETECTRON2_DATASETS, else ``datasets``."""
    return os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), name)


def demo_data(masks: bool = False) -> DictConfig:
    """The generated demo dataset (see `ms_detr.data.demo`), augmented by flips alone.

    Its images have 128 x 128 pixels.
    """
    dataloader = small_data(DEMO, masks)
    dataloader.train.mapper.augmentations.flip = 0.5
    dataloader.train.total_batch_size = 8
    return dataloader


def _dataset(name: str, **options: bool) -> DictConfig:
    return L(coco_dataset)(
        name=name,
        images=None,
        annotations=None,
        masks=MASKS,
        trust_annotations=False,
        check_images="${dataloader.check_images}",
        cache="${dataloader.annotation_cache}",
        **options,
    )


def _mapper(augmentations: Any, is_train: bool) -> DictConfig:
    return L(DetrMapper)(
        augmentations=augmentations, image_format="RGB", is_train=is_train, masks=MASKS
    )
