"""The detector as Detectron2 sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from .auxiliary import Auxiliary
from .errors import ConfigError
from .layers.boxes import xyxy_to_cxcywh
from .linked_keys import (
    check_auxiliary,
    check_backbone,
    check_fine_to_coarse,
    check_groups,
    check_linked_keys,
    check_padding,
    check_references,
    check_sources,
)
from .model_inputs import check_images, name_of, naming_single_cells, padded_masks
from .modeling import (
    Decoder,
    Detections,
    Encoder,
    Groups,
    MaskBranch,
    Neck,
    Postprocess,
    QueryInitializer,
    SingleScaleNeck,
    paste_masks,
)
from .modeling.groups import PRIMARY
from .structures import (
    DECODER,
    CountedLosses,
    Memory,
    Predictions,
    Source,
    Targets,
    output_scale,
    output_size,
    shown_size,
)
from .supervision import Criterion

OUTPUT = Source(DECODER)  # what inference reads
STEP = "step"  # in a model input


@dataclass(frozen=True)
class Usage:
    """How images become inputs of a trained model, and what its classes are called.

    Attributes:
        mapper: the mapper of the test images, see `ms_detr.data.DetrMapper`.
        batch_size: so many images at most are predicted together.
        class_names: by the number of the class; empty where the weights tell none.
    """

    mapper: Any
    batch_size: int
    class_names: tuple[str, ...] = ()


@META_ARCH_REGISTRY.register()
class GeneralizedDETR(nn.Module):
    """A detector with one decoder over one set of queries, and its supervision.

    What makes a method are the parts: see `ms_detr.recipes`. In training the model takes
    Detectron2's batched inputs with ``instances`` and returns losses; else it returns detections.

    Args:
        num_classes, num_queries, embed_dim: one key each in a config, linked to every part that
            needs it, and checked here against the parts.
        num_heads, feedforward_dim, dropout: the same, but a part may have a value of its own.
        pixel_mean, pixel_std: of the channels, in the order of the images.
        auxiliary: heads on the encoder's maps, for training.
        evaluate_head: the name of one of them, whose detections take the decoder's place in
            evaluation.

    Attributes:
        usage: how images become its inputs; None until `ms_detr.load_model` tells it.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck | SingleScaleNeck,
        encoder: Encoder,
        query_initializer: QueryInitializer,
        decoder: Decoder,
        criterion: Criterion,
        postprocess: Postprocess,
        masks: MaskBranch | None = None,
        groups: Groups | None = None,
        auxiliary: Auxiliary | None = None,
        evaluate_head: str | None = None,
        num_classes: int,
        num_queries: int,
        embed_dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ):
        super().__init__()
        needed = dict(backbone=backbone, neck=neck, encoder=encoder, decoder=decoder)
        needed |= dict(query_initializer=query_initializer, criterion=criterion)
        for name, part in (needed | dict(postprocess=postprocess)).items():
            if part is None:
                raise ConfigError(f"model.{name} is null, and nothing can take its place")
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.query_initializer = query_initializer
        self.decoder = decoder
        groups = groups if groups is not None else Groups()
        self.criterion = criterion = criterion.without_groups(groups.dropped)
        self.postprocess = postprocess
        self.masks = masks
        self.groups = groups
        self.auxiliary = auxiliary
        self.evaluate_head = evaluate_head
        self.num_classes = num_classes
        self.usage: Usage | None = None
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            if len(values) != 3:
                raise ConfigError(f"model.{name} has a value a channel, got {list(values)}")
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)
        check_references(decoder, query_initializer)
        check_padding(neck, decoder)
        check_groups(self.groups, query_initializer, auxiliary)
        outputs = {replace(OUTPUT, group=group) for group in (PRIMARY, *self.groups)}
        check_sources(criterion, decoder.tapped, query_initializer.sources | outputs)
        maps = backbone.output_shape()
        offered = {name: shape.channels for name, shape in maps.items()}
        check_backbone("model.neck", neck.in_channels, offered)
        strides = {name: maps[name].stride for name in neck.in_channels}
        check_fine_to_coarse(strides)
        check_auxiliary(auxiliary, len(strides), evaluate_head)
        self.strides = tuple(strides.values())
        if masks is not None:
            check_backbone("model.masks", masks.in_channels, offered)
        if (masks is not None) != criterion.supervises_masks:
            raise ConfigError(
                "masks need both a branch, model.masks, and a term with mask_points and losses of "
                f"masks; here the branch is {'missing' if masks is None else 'never trained'}"
            )
        check_linked_keys(
            self,
            dict(num_classes=num_classes, num_queries=num_queries, embed_dim=embed_dim),
            dict(num_heads=num_heads, feedforward_dim=feedforward_dim, dropout=dropout),
        )

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by their number; empty where they are unknown."""
        return self.usage.class_names if self.usage else ()

    def set_usage(self, usage: Usage) -> None:
        """Tell the model how it is used."""
        self.usage = usage

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Train or predict on Detectron2's batched inputs.

        Args:
            batched_inputs: dicts with ``image``, uint8 (3, H, W) in the config's ``image_format``,
                see `ms_detr.data.DetrMapper`; in training ``instances`` with
                ``gt_boxes``, ``gt_classes`` and, with a mask branch, ``gt_masks`` (BitMasks), and
                optionally the ``step`` that they are a part of, see `Step`; else optionally the
                output ``height``, ``width``, and the ``shown_size`` (h, w) at the upper left of
                ``image`` that is shown there; without it, all of ``image``.

        Returns:
            In training ``{name: loss}``, `CountedLosses`, else ``[{"instances": Instances}, ...]``
            with ``pred_boxes`` in pixels of the output and cut to it, ``scores``, ``pred_classes``
            and, with a mask branch, ``pred_masks`` (n, H, W) bool; these have no gradients, but
            those of `forward_tensors` do.

        Raises:
            ConfigError: an image is of another kind; in training, there are no or wrong targets.
        """
        images, padding_mask = self.preprocess(batched_inputs)
        size = (images.shape[-2], images.shape[-1])
        if self.training:
            targets = self.targets(batched_inputs, size)
            with naming_single_cells(batched_inputs):
                predictions = self.forward_tensors(images, padding_mask, targets)
            return self.criterion(predictions, targets)
        with torch.no_grad():  # what is kept of the results would keep all activations
            return self._detect(batched_inputs, images, padding_mask)

    def _detect(
        self, batched_inputs: list[dict[str, Any]], images: Tensor, padding_mask: Tensor
    ) -> list[dict[str, Instances]]:
        """The results of `forward` in evaluation."""
        if self.auxiliary is not None and self.evaluate_head is not None:
            _, memory = self.encode(images, padding_mask)
            found = self.auxiliary.detect(self.evaluate_head, memory, self.strides, padding_mask)
            return [
                {"instances": _to_instances(x, detections)}
                for x, detections in zip(batched_inputs, found, strict=True)
            ]
        predictions = self.forward_tensors(images, padding_mask)[OUTPUT]
        detections = self.postprocess(predictions)
        results = []
        for index, x in enumerate(batched_inputs):
            own = detections.of(index)
            instances = _to_instances(x, own)
            if predictions.masks is not None:
                instances.pred_masks = paste_masks(
                    predictions.masks,
                    index,
                    own.queries[0],
                    (images.shape[-2], images.shape[-1]),
                    shown_size(x),
                    instances.image_size,
                )
            results.append({"instances": instances})
        return results

    def forward_tensors(
        self, images: Tensor, padding_mask: Tensor, targets: Targets | None = None
    ) -> Predictions:
        """The detector without Detectron2's records.

        Args:
            images: (B, 3, H, W), normalised, zero in padding.
            padding_mask: (B, H, W), True in padding.
            targets: the objects. In training mode, or with targets, the predictions are all that
                the criterion needs; without them only the last decoder layer's.
        """
        supervised = self.training or targets is not None
        features, memory = self.encode(images, padding_mask)
        queries, proposals = self.query_initializer(memory, supervised)
        losses = CountedLosses()
        if supervised:
            candidates = {}
            if self.auxiliary is not None and targets is not None:
                heads = self.auxiliary(memory, self.strides, padding_mask, targets)
                for name, found in heads.items():
                    losses.add(found.losses)
                    candidates[name] = found.candidates
            count = self.query_initializer.num_queries
            queries, groups = self.groups(queries, count, targets, candidates)
            predictions = self.decoder(queries, memory, supervised, groups)
        else:
            predictions = self.decoder(queries, memory, supervised)
        if self.masks is not None:
            predictions = self.masks(features, memory, padding_mask, predictions)
        return Predictions({**proposals, **predictions}, losses)

    def encode(self, images: Tensor, padding_mask: Tensor) -> tuple[Mapping[str, Tensor], Memory]:
        """The backbone's maps by name and the encoder's output; arguments as `forward_tensors`."""
        # Tokens are channels-last, and convolutions are faster that way.
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return features, self.encoder(self.neck(features, padding_mask))

    def preprocess(self, batched_inputs: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Normalise and pad at the bottom and right: images (B, 3, H, W), mask (B, H, W)."""
        check_images(batched_inputs)
        images = [
            (x["image"].to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        padded = ImageList.from_tensors(images, self.backbone.size_divisibility).tensor
        mask = torch.ones(padded[:, 0].shape, dtype=torch.bool, device=self.device)
        for row, image in zip(mask, images, strict=True):
            row[: image.shape[1], : image.shape[2]] = False
        return padded, mask

    def targets(
        self, batched_inputs: Sequence[Mapping[str, Any]], padded_size: tuple[int, int]
    ) -> Targets:
        """Objects of the batch, boxes in fractions of each image, masks as large as the padded."""
        images = []
        for x in batched_inputs:
            if "instances" not in x:
                raise ConfigError(
                    f"training needs 'instances' for {name_of(x)}; the mapper made none"
                )
            instances = x["instances"]
            labels = instances.gt_classes
            # The loader's labels lie on the host: no sync.
            unknown = labels[(labels < 0) | (labels >= self.num_classes)]
            if len(unknown):
                raise ConfigError(
                    f"{name_of(x)} has class {int(unknown[0])}, the model knows 0 to "
                    f"{self.num_classes - 1}: set model.num_classes to the dataset's count"
                )
            height, width = instances.image_size
            boxes = instances.gt_boxes.tensor
            if not bool(boxes.isfinite().all()):
                raise ConfigError(
                    f"{name_of(x)} has a box that is NaN or infinite: {boxes.tolist()}"
                )
            scale = boxes.new_tensor((width, height, width, height))
            image = {"labels": labels, "boxes": xyxy_to_cxcywh(boxes / scale)}
            if self.masks is not None:
                image["masks"] = padded_masks(x, padded_size)
            images.append(image)
        step = batched_inputs[0].get(STEP) if batched_inputs else None
        return replace(Targets.from_list(images), step=step).to(self.device)


@META_ARCH_REGISTRY.register()
class MSDETR(GeneralizedDETR):
    """`GeneralizedDETR` by the name that it had, under which checkpoints and configs know it."""


def _to_instances(x: Mapping[str, Any], detections: Detections) -> Instances:
    """An image's detections, a batch of one; boxes in pixels of the output."""
    height, width = output_size(x)
    instances = Instances((height, width))
    boxes = Boxes(detections.boxes[0].clone())
    boxes.scale(*output_scale(x))
    for axis, most in enumerate((width, height)):
        boxes.tensor[:, axis::2].clamp_(max=most)
    instances.pred_boxes = boxes
    instances.scores = detections.scores[0]
    instances.pred_classes = detections.labels[0]
    return instances
