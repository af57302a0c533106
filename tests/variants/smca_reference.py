"""The decoder of SMCA-DETR by its published names: image by image, head by head, in float64."""

import math

import torch

HEADS = 4


class Published:
    """Parameters by their published names; ``sizes`` are (width, height) in pixels."""

    def __init__(self, state, num_layers):
        self.state = state
        self.num_layers = num_layers

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x):
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).square().mean(-1, keepdim=True)
        normal = (x - mean) / torch.sqrt(variance + 1e-5)
        return normal * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def mlp(self, name, x):
        for k in range(3):
            x = self.linear(f"{name}.layers.{k}", x)
            x = x if k == 2 else x.clamp(min=0)
        return x

    def attend(self, name, query, key, value, bias=None, padding=None):
        """Bias: (heads, Q, S); padding: (S,)."""
        weight, shift = self.state[f"{name}.in_proj_weight"], self.state[f"{name}.in_proj_bias"]
        dim = query.shape[1]
        q, k, v = (
            x @ weight[n * dim : (n + 1) * dim].T + shift[n * dim : (n + 1) * dim]
            for n, x in enumerate((query, key, value))
        )
        read = []
        for head in range(HEADS):
            part = slice(head * dim // HEADS, (head + 1) * dim // HEADS)
            logits = q[:, part] @ k[:, part].T / math.sqrt(dim // HEADS)
            if padding is not None:
                logits = logits.masked_fill(padding, -torch.inf)
            if bias is not None:
                logits = logits + bias[head]
            weights = torch.exp(logits - logits.amax(1, keepdim=True).detach())
            read.append(weights / weights.sum(1, keepdim=True) @ v[:, part])
        return self.linear(f"{name}.out_proj", torch.cat(read, 1))

    def gaussians(self, layer, states, cells, shape):
        """(heads, Q, h * w) around centres (Q, 2) in cells."""
        offsets = self.linear(f"{layer}.point2", states)
        scales = self.linear(f"{layer}.point3", states)
        maps = []
        for head in range(HEADS):
            rows = []
            for q in range(len(states)):
                x = cells[q, 0] + offsets[q, 2 * head]
                y = cells[q, 1] + offsets[q, 2 * head + 1]
                wide, high = scales[q, 2 * head], scales[q, 2 * head + 1]
                places = [(column, row) for row in range(shape[0]) for column in range(shape[1])]
                row = [-((x - i) ** 2 * wide**2 + (y - j) ** 2 * high**2) / 8 for i, j in places]
                rows.append(torch.stack(row))
            maps.append(torch.stack(rows))
        return torch.stack(maps)

    def decode(self, tokens, place, padding, shape, size, stride):
        """Logits (L, Q, K) and boxes (L, Q, 4) of one image.

        Tokens and place are (h * w, C), padding (h * w,), size the image's in pixels.
        """
        start = "transformer.decoder"
        position = self.state["query_embed.weight"]
        content = torch.zeros_like(position)
        classes, boxes = [], []
        for i in range(self.num_layers):
            layer = f"{start}.layers.{i}"
            states = self.norm(f"{layer}.norm4", content + position)
            if i == 0:
                logits = self.mlp(f"{layer}.point1", states)
                cells = 1 / (1 + torch.exp(-logits)) * size / stride
            bias = self.gaussians(layer, states, cells, shape)
            asked = content + position
            content = self.norm(
                f"{layer}.norm1",
                content + self.attend(f"{layer}.self_attn", asked, asked, content),
            )
            read = self.attend(
                f"{layer}.multihead_attn", content + position, tokens + place, tokens, bias, padding
            )
            content = self.norm(f"{layer}.norm2", content + read)
            inner = self.linear(f"{layer}.linear1", content).clamp(min=0)
            content = self.norm(f"{layer}.norm3", content + self.linear(f"{layer}.linear2", inner))
            shown = self.norm(f"{start}.norm", content)
            classes.append(self.linear("class_embed", shown))
            box = self.mlp("bbox_embed", shown)
            box = torch.cat((box[:, :2] + logits, box[:, 2:]), 1)
            boxes.append(1 / (1 + torch.exp(-box)))
        return torch.stack(classes), torch.stack(boxes)
