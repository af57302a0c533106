"""State dicts of published detectors with one feature map, and of others with learned anchors."""

from itertools import pairwise

from .published import Publisher, in_detrex

SELF = ("qcontent", "qpos", "kcontent", "kpos", "v")
CROSS = ("qcontent", "kcontent", "kpos", "v", "qpos_sine")


class DensePublisher(Publisher):
    """One feature map and dense attention; what a class of the family adds is up to `add`."""

    def frame(self, classes):
        """What all of them have."""
        self.backbone()
        self.add("input_proj.weight", self.dim, 2048, 1, 1)
        self.add("input_proj.bias", self.dim)
        for i in range(self.layers):
            name = f"transformer.encoder.layers.{i}"
            self.multihead(f"{name}.self_attn")
            self.rest(name, norms=2)
        self.norm("transformer.decoder.norm")
        self.linear("class_embed", classes, self.dim)
        self.mlp("bbox_embed", self.dim, self.dim, self.dim, 4)

    def rest(self, name, norms):
        for k in range(norms):
            self.norm(f"{name}.norm{k + 1}")
        self.feedforward(name, 1)

    def mlp(self, name, *widths):
        for k, (into, out) in enumerate(pairwise(widths)):
            self.linear(f"{name}.layers.{k}", out, into)

    def conditional_decoder(self):
        for i in range(self.layers):
            name = f"transformer.decoder.layers.{i}"
            for short, parts, attention in (
                ("sa", SELF, "self_attn"),
                ("ca", (*CROSS, *(["qpos"] if i == 0 else [])), "cross_attn"),
            ):
                for part in parts:
                    self.linear(f"{name}.{short}_{part}_proj", self.dim, self.dim)
                self.linear(f"{name}.{attention}.out_proj", self.dim, self.dim)
            self.rest(name, norms=3)


def detr(queries=100, classes=91):
    """Ending in the classes and nothing."""
    publisher = DensePublisher()
    publisher.frame(classes + 1)
    for i in range(publisher.layers):
        name = f"transformer.decoder.layers.{i}"
        publisher.multihead(f"{name}.self_attn")
        publisher.multihead(f"{name}.multihead_attn")
        publisher.rest(name, norms=3)
    publisher.add("query_embed.weight", queries, publisher.dim)
    return publisher.state


def smca_detr(scales=2, queries=300, classes=92):
    """Centres, offsets and scales; the last class is none."""
    publisher = DensePublisher()
    publisher.frame(classes)
    dim = publisher.dim
    for i in range(publisher.layers):
        name = f"transformer.decoder.layers.{i}"
        publisher.multihead(f"{name}.self_attn")
        publisher.multihead(f"{name}.multihead_attn")
        publisher.rest(name, norms=4)
        publisher.linear(f"{name}.point2", 16, dim)
        if scales:
            publisher.linear(f"{name}.point3", 8 * scales, dim)
    publisher.mlp("transformer.decoder.layers.0.point1", dim, dim, dim, 2)
    publisher.add("query_embed.weight", queries, dim)
    return publisher.state


def sam_detr(levels=1, norm=True, modulated=False, queries=300, classes=91):
    """Boxes, points and gates; the box heads saved twice."""
    publisher = DensePublisher(levels=levels)
    publisher.backbone()
    dim, state = publisher.dim, publisher.state
    for k, into in enumerate((512, 1024, 2048)[-levels:]):
        publisher.add(f"input_proj.{k}.0.weight", dim, into, 1, 1)
        publisher.add(f"input_proj.{k}.0.bias", dim)
        if norm:
            publisher.norm(f"input_proj.{k}.1")
    if levels > 1:
        publisher.add("transformer.level_embed", levels, dim)
    for i in range(publisher.layers):
        encoder, decoder = (f"transformer.{x}.layers.{i}" for x in ("encoder", "decoder"))
        if levels > 1:
            publisher.deformable(f"{encoder}.self_attn")
            publisher.linear(f"{encoder}.linear1", 1024, dim)
            publisher.linear(f"{encoder}.linear2", dim, 1024)
            publisher.norm(f"{encoder}.norm1")
            publisher.norm(f"{encoder}.norm2")
        else:
            publisher.multihead(f"{encoder}.self_attn")
            publisher.rest(encoder, norms=2)
        parts = [f"sa_{part}_proj" for part in SELF] + ["self_attn.out_proj", "cross_attn.out_proj"]
        parts += ["ca_qcontent_proj", "ca_kcontent_proj", "ca_v_proj"]
        parts += [f"ca_{x}pos_sine_proj.layers.{k}" for x in "qk" for k in (0, 1)]
        for part in parts:
            publisher.linear(f"{decoder}.{part}", dim, dim)
        publisher.add(f"{decoder}.point1.0.weight", 64, dim, 1, 1)
        publisher.add(f"{decoder}.point1.0.bias", 64)
        widths = (64 * 49, 256, 512, 512, 32 if modulated else 16)
        for k, (into, out) in enumerate(pairwise(widths)):
            publisher.linear(f"{decoder}.point2.{2 * k}", out, into)
        for gate in ("attn1", "attn2"):
            publisher.linear(f"{decoder}.{gate}", 8 * dim, dim)
        publisher.rest(decoder, norms=3)
    publisher.add("query_embed.weight", queries, 4)
    publisher.classes = classes
    publisher.heads(publisher.layers, copies=False)
    boxes = {k: v for k, v in state.items() if k.startswith("bbox_embed.")}
    state.update({f"transformer.decoder.{k}": v for k, v in boxes.items()})
    return state


def conditional_detr(queries=300, classes=91):
    """Positions, and the two networks that read them."""
    publisher = DensePublisher()
    publisher.frame(classes)
    publisher.conditional_decoder()
    dim = publisher.dim
    publisher.add("query_embed.weight", queries, dim)
    publisher.mlp("transformer.decoder.ref_point_head", dim, dim, 2)
    publisher.mlp("transformer.decoder.query_scale", dim, dim, dim)
    return publisher.state


def dab_detr(labels=False, queries=300, classes=91):
    """Anchors, modulation, activations that learn; labels: DN-DETR's embedding."""
    publisher = DensePublisher()
    publisher.frame(classes)
    publisher.conditional_decoder()
    dim, state = publisher.dim, publisher.state
    publisher.add("refpoint_embed.weight", queries, 4)
    publisher.mlp("transformer.decoder.ref_point_head", 2 * dim, dim, dim)
    publisher.mlp("transformer.decoder.ref_anchor_head", dim, dim, 2)
    for where in ("encoder", "decoder"):
        publisher.mlp(f"transformer.{where}.query_scale", dim, dim, dim)
        for i in range(publisher.layers):
            publisher.add(f"transformer.{where}.layers.{i}.activation.weight", 1)
    boxes = {k: v for k, v in state.items() if k.startswith("bbox_embed.")}
    state.update({f"transformer.decoder.{k}": v for k, v in boxes.items()})
    if labels:
        publisher.add("label_enc.weight", classes + 1, dim - 1)
    return state


def dab_deformable_detr(labels=False, queries=300, classes=91):
    """Feature levels, learned anchors and content; labels: DN-DETR's embedding and content."""
    publisher = DensePublisher()
    publisher.backbone()
    publisher.neck()
    publisher.transformer(aux_ffn=False)
    dim, state = publisher.dim, publisher.state
    publisher.heads(publisher.layers, copies=False)
    boxes = {k: v for k, v in state.items() if k.startswith("bbox_embed.")}
    state.update({f"transformer.decoder.{k}": v for k, v in boxes.items()})
    publisher.add("tgt_embed.weight", queries, dim - labels)
    publisher.add("refpoint_embed.weight", queries, 4)
    publisher.mlp("transformer.decoder.ref_point_head", 2 * dim, dim, dim)
    publisher.mlp("transformer.decoder.query_scale", dim, dim, dim)
    if labels:
        publisher.add("label_enc.weight", classes + 1, dim - 1)
    return state


# Names of Conditional DETR's repository as detrex has them, in the order of replacing.
CONDITIONAL_IN_DETREX = {
    "sa_qcontent_proj": "attentions.0.query_content_proj",
    "sa_qpos_proj": "attentions.0.query_pos_proj",
    "sa_kcontent_proj": "attentions.0.key_content_proj",
    "sa_kpos_proj": "attentions.0.key_pos_proj",
    "sa_v_proj": "attentions.0.value_proj",
    "ca_qcontent_proj": "attentions.1.query_content_proj",
    "ca_qpos_sine_proj": "attentions.1.query_pos_sine_proj",
    "ca_qpos_proj": "attentions.1.query_pos_proj",
    "ca_kcontent_proj": "attentions.1.key_content_proj",
    "ca_kpos_proj": "attentions.1.key_pos_proj",
    "ca_v_proj": "attentions.1.value_proj",
    "cross_attn.out_proj": "attentions.1.out_proj",
    "decoder.norm.": "decoder.post_norm_layer.",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "norms.2",
}


def detrex_conditional_detr(queries=300, classes=80):
    """Conditional DETR in detrex; with eleven times the queries Group DETR."""
    return {_in_detrex(name): tensor for name, tensor in conditional_detr(queries, classes).items()}


def _in_detrex(name):
    if name.startswith("transformer."):
        for official, new in CONDITIONAL_IN_DETREX.items():
            name = name.replace(official, new)
        encoder = name.startswith("transformer.encoder")
        name = name.replace("self_attn.", "attentions.0.attn." if encoder else "attentions.0.")
        return name.replace("linear1", "ffns.0.layers.0.0").replace("linear2", "ffns.0.layers.1")
    # Of the queries the name is the official one.
    return name if name.startswith("query_embed") else in_detrex(name)
