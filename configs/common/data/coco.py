"""COCO 2017 with DETR's augmentation; found through the variable DETECTRON2_DATASETS.

For data of your own give ``name``, ``images`` and ``annotations`` of both datasets. One key,
``dataloader.masks``, switches masks on: in the datasets, the training targets and the evaluation;
another, ``dataloader.check_images``, the look at all image files before a run.
"""

from detectron2.config import LazyCall as L

from ms_detr.data import (
    DetrMapper,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
    coco_dataset,
    detr_augmentations,
)
from ms_detr.evaluation import CocoEvaluator

dataloader = dict(
    masks=False,
    check_images=True,
    train=L(build_train_loader)(
        dataset=L(coco_dataset)(
            name="coco_2017_train",
            images=None,
            annotations=None,
            masks="${dataloader.masks}",
            trust_annotations=False,
            check_images="${dataloader.check_images}",
        ),
        mapper=L(DetrMapper)(
            augmentations=L(detr_augmentations)(),
            image_format="RGB",
            is_train=True,
            masks="${dataloader.masks}",
        ),
        total_batch_size=16,
        max_bad_images=0,
        num_workers=4,
        seed="${train.seed}",
    ),
    test=L(build_test_loader)(
        dataset=L(coco_dataset)(
            name="coco_2017_val",
            images=None,
            annotations=None,
            masks="${dataloader.masks}",
            trust_annotations=False,
            check_images="${dataloader.check_images}",
            evaluated=True,
        ),
        mapper=L(DetrMapper)(
            augmentations=[L(ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="RGB",
            is_train=False,
            masks="${dataloader.masks}",
        ),
        batch_size=1,
        num_workers=4,
    ),
    evaluator=L(CocoEvaluator)(
        dataset_name="${dataloader.test.dataset.name}",
        output_dir="${train.output_dir}/evaluation",
        nms_threshold=None,
        max_detections=100,  # COCO's, of a class in an image; at most model.postprocess.top_k
        masks="${dataloader.masks}",
    ),
)
