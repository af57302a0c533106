"""State dicts as the published implementations save them: names and shapes of their checkpoints."""

import re

import torch

ATTENTION = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
BLOCKS = (3, 4, 6, 3)  # of ResNet-50
TINY = {"backbone": False, "dim": 8, "ffn": 8, "layers": 2}  # options of the functions below


class Publisher:
    """Makes the tensors of one checkpoint, filled at random.

    Sizes may be smaller than published; heads always have three linear layers.
    """

    def __init__(
        self, seed=0, dim=256, ffn=2048, classes=91, layers=6, levels=4, heads=8, points=4
    ):
        self.generator = torch.Generator().manual_seed(seed)
        self.dim, self.ffn, self.classes, self.layers = dim, ffn, classes, layers
        self.levels, self.samples = levels, heads * levels * points
        self.state = {}

    def add(self, name, *shape):
        self.state[name] = torch.randn(shape, generator=self.generator)

    def linear(self, name, out, into):
        self.add(f"{name}.weight", out, into)
        self.add(f"{name}.bias", out)

    def norm(self, name, size=None):
        self.add(f"{name}.weight", size or self.dim)
        self.add(f"{name}.bias", size or self.dim)

    def deformable(self, name):
        for part, out in zip(
            ATTENTION, (2 * self.samples, self.samples, self.dim, self.dim), strict=True
        ):
            self.linear(f"{name}.{part}", out, self.dim)

    def multihead(self, name):
        self.add(f"{name}.in_proj_weight", 3 * self.dim, self.dim)
        self.add(f"{name}.in_proj_bias", 3 * self.dim)
        self.linear(f"{name}.out_proj", self.dim, self.dim)

    def batch_norm(self, name, size):
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.add(f"{name}.{part}", size)
        self.state[f"{name}.running_var"].abs_()

    def backbone(self, prefix="backbone.0.body.", widths=(64, 256, 512, 1024, 2048)):
        self.add(f"{prefix}conv1.weight", widths[0], 3, 7, 7)
        self.batch_norm(f"{prefix}bn1", widths[0])
        for stage, count in enumerate(BLOCKS):
            inner, out = widths[1] // 4 * 2**stage, widths[stage + 1]
            for block in range(count):
                name = f"{prefix}layer{stage + 1}.{block}"
                into = widths[stage] if block == 0 else out
                shapes = ((inner, into, 1), (inner, inner, 3), (out, inner, 1))
                for k, (a, b, size) in enumerate(shapes, 1):
                    self.add(f"{name}.conv{k}.weight", a, b, size, size)
                    self.batch_norm(f"{name}.bn{k}", a)
                if block == 0:
                    self.add(f"{name}.downsample.0.weight", out, into, 1, 1)
                    self.batch_norm(f"{name}.downsample.1", out)

    def neck(self, channels=(512, 1024, 2048)):
        self.add("transformer.level_embed", self.levels, self.dim)
        for level, into in enumerate((*channels, channels[-1])):
            size = 1 if level < len(channels) else 3
            self.add(f"input_proj.{level}.0.weight", self.dim, into, size, size)
            self.add(f"input_proj.{level}.0.bias", self.dim)
            self.norm(f"input_proj.{level}.1")

    def transformer(self, aux_ffn):
        for i in range(self.layers):
            name = f"transformer.encoder.layers.{i}"
            self.deformable(f"{name}.self_attn")
            self.norm(f"{name}.norm1")
            self.norm(f"{name}.norm2")
            self.feedforward(name, 1)
            name = f"transformer.decoder.layers.{i}"
            self.deformable(f"{name}.cross_attn")
            self.multihead(f"{name}.self_attn")
            for k in (1, 2, 3, 4)[: 4 if aux_ffn else 3]:
                self.norm(f"{name}.norm{k}")
            self.feedforward(name, 1)
            if aux_ffn:
                self.feedforward(name, 3)

    def feedforward(self, name, first):
        self.linear(f"{name}.linear{first}", self.ffn, self.dim)
        self.linear(f"{name}.linear{first + 1}", self.dim, self.ffn)

    def heads(self, count, copies=True):
        for h in range(count):
            self.linear(f"class_embed.{h}", self.classes, self.dim)
            for k, out in enumerate((self.dim, self.dim, 4)):
                self.linear(f"bbox_embed.{h}.layers.{k}", out, self.dim)
        if copies:
            heads = {k: v for k, v in self.state.items() if k.startswith(("class_", "bbox_"))}
            self.state.update({f"transformer.decoder.{k}": v for k, v in heads.items()})

    def two_stage(self):
        self.linear("transformer.enc_output", self.dim, self.dim)
        self.norm("transformer.enc_output_norm")
        self.linear("transformer.pos_trans", 2 * self.dim, 2 * self.dim)
        self.norm("transformer.pos_trans_norm", 2 * self.dim)


def two_stage(aux_ffn=False, mixed=0, separate=False, backbone=True, **sizes):
    """A two-stage checkpoint.

    aux_ffn: MS-DETR's; mixed: learned queries (++); separate: implementation (a)'s class heads.
    """
    publisher = Publisher(**sizes)
    if backbone:
        publisher.backbone()
    publisher.neck()
    publisher.transformer(aux_ffn)
    publisher.two_stage()
    publisher.heads(publisher.layers + 1)
    if mixed:
        publisher.add("query_embed.weight", mixed, publisher.dim)
    if separate:
        state = publisher.state
        for i in range(publisher.layers):
            publisher.linear(f"class_embed_o2m.{i}", publisher.classes, publisher.dim)
        shared = {k: v for k, v in state.items() if k.startswith("bbox_embed.")}
        last = f"bbox_embed.{publisher.layers}."
        state.update(
            {k.replace("embed", "embed_o2m", 1): v for k, v in shared.items() if last not in k}
        )
    return publisher.state


def small(**options):
    """A two-stage checkpoint with tiny tensors, and none of a backbone."""
    return two_stage(**TINY, **options)


def dino(queries=900, backbone=True, channels=(512, 1024, 2048), **sizes):
    """DINO with one class and one box head for the decoder, saved for every layer and twice."""
    publisher = Publisher(levels=len(channels) + 1, **sizes)
    if backbone:
        publisher.backbone()
    publisher.neck(channels)
    publisher.transformer(aux_ffn=False)
    state, dim = publisher.state, publisher.dim
    publisher.norm("transformer.decoder.norm")
    publisher.linear("transformer.decoder.ref_point_head.layers.0", dim, 2 * dim)
    publisher.linear("transformer.decoder.ref_point_head.layers.1", dim, dim)
    publisher.linear("transformer.enc_output", dim, dim)
    publisher.norm("transformer.enc_output_norm")
    publisher.add("transformer.tgt_embed.weight", queries, dim)
    publisher.add("label_enc.weight", publisher.classes + 1, dim)
    for name in ("class_embed.0", "transformer.enc_out_class_embed"):
        publisher.linear(name, publisher.classes, dim)
    for name in ("bbox_embed.0", "transformer.enc_out_bbox_embed"):
        for k, out in enumerate((dim, dim, 4)):
            publisher.linear(f"{name}.layers.{k}", out, dim)
    heads = {k: v for k, v in state.items() if k.startswith(("class_embed", "bbox_embed"))}
    for i in range(publisher.layers):
        copies = {k.replace(".0.", f".{i}.", 1): v for k, v in heads.items()}
        state.update(copies | {f"transformer.decoder.{k}": v for k, v in copies.items()})
    return state


def one_stage(queries=300, refined=True, aux_ffn=False, **sizes):
    """Learned queries; without refinement all heads are one, saved often."""
    publisher = Publisher(**sizes)
    publisher.backbone()
    publisher.neck()
    publisher.transformer(aux_ffn)
    publisher.add("query_embed.weight", queries, 2 * publisher.dim)
    publisher.linear("transformer.reference_points", 2, publisher.dim)
    publisher.heads(publisher.layers, copies=False)
    state = publisher.state
    boxes = {k: v for k, v in state.items() if k.startswith("bbox_")}
    if refined:
        state.update({f"transformer.decoder.{k}": v for k, v in boxes.items()})
    else:
        for name in [k for k in state if k.startswith(("class_embed", "bbox_embed"))]:
            first = ".".join([name.split(".")[0], "0", *name.split(".")[2:]])
            state[name] = state[first]
    return state


# Names of the official repositories as detrex has them, in the order of replacing.
IN_DETREX = (
    (r"backbone\.0\.body\.(?=conv1|bn1)", "backbone.stem."),
    (r"backbone\.0\.body\.layer1", "backbone.res2"),
    (r"backbone\.0\.body\.layer2", "backbone.res3"),
    (r"backbone\.0\.body\.layer3", "backbone.res4"),
    (r"backbone\.0\.body\.layer4", "backbone.res5"),
    (r"(?<=\.)bn(\d)", r"conv\1.norm"),
    (r"downsample\.0", "shortcut"),
    (r"downsample\.1", "shortcut.norm"),
    (r"input_proj\.3\.0", "neck.extra_convs.0.conv"),
    (r"input_proj\.3\.1", "neck.extra_convs.0.norm"),
    (r"input_proj\.(\d)\.0", r"neck.convs.\1.conv"),
    (r"input_proj\.(\d)\.1", r"neck.convs.\1.norm"),
    (r"level_embed$", "level_embeds"),
    (r"query_embed", "query_embedding"),
    (r"linear1", "ffns.0.layers.0.0"),
    (r"linear2", "ffns.0.layers.1"),
    (r"(encoder\.layers\.\d\.)self_attn", r"\1attentions.0"),
    (r"(encoder\.layers\.\d\.)norm1", r"\1norms.0"),
    (r"(encoder\.layers\.\d\.)norm2", r"\1norms.1"),
    (r"(decoder\.layers\.\d\.)self_attn", r"\1attentions.0.attn"),
    (r"(decoder\.layers\.\d\.)cross_attn", r"\1attentions.1"),
    (r"(decoder\.layers\.\d\.)norm2", r"\1norms.0"),  # norms in the order of computing
    (r"(decoder\.layers\.\d\.)norm1", r"\1norms.1"),
    (r"(decoder\.layers\.\d\.)norm3", r"\1norms.2"),
)


def detrex(state):
    """A checkpoint of Deformable DETR under detrex's names."""
    return {in_detrex(name): tensor for name, tensor in state.items()}


def in_detrex(name):
    for pattern, replacement in IN_DETREX:
        name = re.sub(pattern, replacement, name)
    return name


def detrex_dino(queries=900, **sizes):
    """DINO in detrex: heads for every layer and the proposals, no label that stands for none."""
    publisher = Publisher(**sizes)
    publisher.backbone()
    publisher.neck()
    publisher.transformer(aux_ffn=False)
    dim = publisher.dim
    publisher.norm("transformer.decoder.norm")
    publisher.linear("transformer.decoder.ref_point_head.layers.0", dim, 2 * dim)
    publisher.linear("transformer.decoder.ref_point_head.layers.1", dim, dim)
    publisher.linear("transformer.enc_output", dim, dim)
    publisher.norm("transformer.enc_output_norm")
    publisher.add("transformer.tgt_embed.weight", queries, dim)
    publisher.add("label_enc.weight", publisher.classes, dim)
    publisher.heads(publisher.layers + 1)
    return detrex(publisher.state)
