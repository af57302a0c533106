"""Methods of the family at the demo's size: what differs from COCO there, in one place.

As `shrink`, each function changes a COCO model in place and returns it. What adds queries adds them
to Deformable DETR++. One-to-one classification counts 2 everywhere, as in `soften`, but for losses
that know how well a box fits.
"""

import copy

from .demo import optimizer, resize, shrink, weigh_classes
from .models.align import align
from .models.dab_deformable import dab_deformable
from .models.dino import dino
from .models.groups import contrastive_denoising, denoising, group, hybrid

# At the others' rate the loss of dense attention stops falling after some hundred iterations.
dense_optimizer = copy.deepcopy(optimizer)
dense_optimizer.lr = 5e-4


def small_hybrid(model):
    return hybrid(shrink(model), rows=150)


def small_group(model):
    return group(shrink(model), num_groups=4)


def small_denoising(model):
    model = denoising(shrink(model))
    model.groups.denoising.num_groups = 4  # of some nine objects
    return model


def small_contrastive(model):
    return _fewer(contrastive_denoising(shrink(model)))


def small_dino(model):
    return weigh_classes(_few_queries(dino(resize(model))))


def small_align(model):
    return _few_queries(align(resize(model)))


def small_dab_deformable(model):
    return weigh_classes(dab_deformable(resize(model)))


def small_dense(model, method):
    """A method that reads one map, at stride 8: at stride 32 these images have 16 cells."""
    model = method(resize(model))
    model.backbone.out_features = ["res2"]
    model.neck.in_channels = dict(res2=48)
    return weigh_classes(model)


def _few_queries(model):
    model.num_queries = 48
    model.query_initializer.anchor_size = 0.2
    return _fewer(model)


def _fewer(model):
    model.groups.denoising.num_queries = 40
    return model
