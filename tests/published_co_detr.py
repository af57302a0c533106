"""State dicts as Co-DETR's code saves them: names and shapes of its checkpoints."""

import torch

from .published import Publisher

RATIOS_AND_SIZES = 9  # anchors a cell of the region proposal network


class Released(Publisher):
    """On mmdetection: names of its layers; BatchNorm counts its steps.

    shapes: whether to make tensors without values.
    """

    def __init__(self, shapes=False, **sizes):
        super().__init__(**sizes)
        self.shapes = shapes

    def add(self, name, *shape):
        if self.shapes:
            self.state[name] = torch.empty(shape, device="meta")
        else:
            super().add(name, *shape)

    def batch_norm(self, name, size):
        super().batch_norm(name, size)
        self.add(f"{name}.num_batches_tracked")

    def convolution(self, name, out, into, size):
        self.add(f"{name}.weight", out, into, size, size)
        self.add(f"{name}.bias", out)

    def mapper(self, name, into, size):
        self.add(f"{name}.conv.weight", self.dim, into, size, size)
        self.norm(f"{name}.gn")

    def layer(self, name, attention, norms):
        self.deformable(f"{name}.attentions.{attention}")
        self.linear(f"{name}.ffns.0.layers.0.0", self.ffn, self.dim)
        self.linear(f"{name}.ffns.0.layers.1", self.dim, self.ffn)
        for k in range(norms):
            self.norm(f"{name}.norms.{k}")

    def transformer(self, start):
        self.add(f"{start}level_embeds", self.levels, self.dim)
        for i in range(self.layers):
            self.layer(f"{start}encoder.layers.{i}", 0, 2)
            self.layer(f"{start}decoder.layers.{i}", 1, 3)
            self.multihead(f"{start}decoder.layers.{i}.attentions.0.attn")
        self.linear(f"{start}enc_output", self.dim, self.dim)
        self.norm(f"{start}enc_output_norm")

    def deformable_additions(self, start, heads):
        wide = 2 * self.dim
        self.linear(f"{start}pos_trans", wide, wide)
        self.norm(f"{start}pos_trans_norm", wide)
        for k in range(heads):
            self.linear(f"{start}aux_pos_trans.{k}", wide, wide)
            self.norm(f"{start}aux_pos_trans_norm.{k}", wide)
            self.linear(f"{start}pos_feats_trans.{k}", self.dim, self.dim)
            self.norm(f"{start}pos_feats_norm.{k}")
        self.add(f"{start}head_pos_embed.weight", heads, 1)
        self.add("query_head.query_embedding.weight", 300, self.dim)

    def dino_additions(self, start, heads, labels):
        self.norm(f"{start}decoder.norm")
        self.linear(f"{start}decoder.ref_point_head.0", self.dim, 2 * self.dim)
        self.linear(f"{start}decoder.ref_point_head.2", self.dim, self.dim)
        for k in range(heads):
            self.linear(f"{start}aux_pos_trans.{k}", self.dim, 2 * self.dim)
            self.norm(f"{start}aux_pos_trans_norm.{k}")
        self.add(f"{start}query_embed.weight", 900, self.dim)
        self.add(labels, self.classes, self.dim)

    def query_head(self):
        self.convolution("query_head.downsample.0", self.dim, self.dim, 3)
        self.norm("query_head.downsample.1")
        for i in range(self.layers + 1):
            self.linear(f"query_head.cls_branches.{i}", self.classes, self.dim)
            for k, out in zip((0, 2, 4), (self.dim, self.dim, 4), strict=True):
                self.linear(f"query_head.reg_branches.{i}.{k}", out, self.dim)

    def rcnn(self, hidden=1024):
        self.convolution("rpn_head.rpn_conv", self.dim, self.dim, 3)
        self.convolution("rpn_head.rpn_cls", RATIOS_AND_SIZES, self.dim, 1)
        self.convolution("rpn_head.rpn_reg", 4 * RATIOS_AND_SIZES, self.dim, 1)
        start = "roi_head.0.bbox_head."
        self.linear(f"{start}shared_fcs.0", hidden, 49 * self.dim)
        self.linear(f"{start}shared_fcs.1", hidden, hidden)
        self.linear(f"{start}fc_cls", self.classes + 1, hidden)
        self.linear(f"{start}fc_reg", 4 * self.classes, hidden)

    def atss(self):
        start = "bbox_head.0."
        for tower in ("cls_convs.0", "reg_convs.0"):
            self.mapper(f"{start}{tower}", self.dim, 3)
        for name, out in (("cls", self.classes), ("reg", 4), ("centerness", 1)):
            self.convolution(f"{start}atss_{name}", out, self.dim, 3)
        for k in range(self.levels + 1):
            self.add(f"{start}scales.{k}.scale")


def co_detr(dino=False, port=False, heads=2, backbone=True, **options):
    """Co-Deformable-DETR or Co-DINO of five scales; as released, or ported to mmdetection 3.

    heads: 2, or 1 for ATSS alone.
    """
    channels = (256, 512, 1024, 2048)[0 if dino else 1 :]
    publisher = Released(levels=len(channels) + 1, **{"classes": 80, **options})
    if backbone:
        publisher.backbone("backbone.")
    for level, into in enumerate(channels):
        publisher.mapper(f"neck.convs.{level}", into, 1)
    publisher.mapper("neck.extra_convs.0", channels[-1], 3)
    start = "query_head.transformer."
    publisher.transformer(start)
    if dino:
        labels = f"query_head.{'dn_generator.' if port else ''}label_embedding.weight"
        publisher.dino_additions(start, heads, labels)
    else:
        publisher.deformable_additions(start, heads)
    publisher.query_head()
    if heads == 2:
        publisher.rcnn()
    publisher.atss()
    return publisher.state
