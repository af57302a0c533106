"""Losses and gradients of a small model's step, compiled or not, in one of several processes.

Arguments: rank, file to meet in, file to write. Rank 0 writes those of a plain model and of one
whose parts are compiled, both in two processes.
"""

import copy
import sys

import torch

from ms_detr.engine.compilation import compile_parts
from ms_detr.engine.distribution import distribute

from ..modeling.support import make_input, make_model
from ..processes import gloo

NO_DROPOUT = ("model.dropout=0.0", "model.encoder.num_layers=2")


def step(model, batch):
    """{name: loss, name: gradient}."""
    torch.manual_seed(3)
    model.zero_grad()
    losses = model(batch)
    sum(losses.values()).backward()
    gradients = {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return {name: loss.detach() for name, loss in losses.items()} | gradients


def main():
    rank, meeting, out = sys.argv[1:]
    with gloo(meeting).joined(int(rank), int(rank)):
        plain = make_model(*NO_DROPOUT)
        compiled = copy.deepcopy(plain)
        compile_parts(compiled, {}, backend="aot_eager")
        models = distribute(plain), distribute(compiled)
        made = []
        for size in ((64, 96), (80, 112)):
            batch = [make_input(*size, labels=(1, 0, 3), seed=int(rank))]
            made.append([step(model, batch) for model in models])
    if rank == "0":
        torch.save(made, out)


if __name__ == "__main__":
    main()
