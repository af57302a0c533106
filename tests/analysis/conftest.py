"""A tiny model with all that the analyses look at."""

import pytest
import torch

from ms_detr.config import load
from ms_detr.engine.building import build
from tests.tiny_demo import on_demo_data


@pytest.fixture(scope="session")
def tiny(demo_dataset):
    """Makes a tiny model of a demo config, in evaluation mode, and inputs with objects."""

    def make(config, *overrides, images=2, seed=0):
        cfg = load(
            config,
            [
                *on_demo_data(demo_dataset, "analysed"),
                "model.encoder.num_layers=1",
                "model.decoder.num_layers=2",
                "model.num_queries=20",
                *overrides,
            ],
        )
        torch.manual_seed(seed)
        model = build(cfg, "model").eval()
        cfg.dataloader.test.mapper.is_train = True
        mapper = build(cfg, "dataloader.test.mapper")
        records = [x for x in build(cfg, "dataloader.test.dataset") if x["annotations"]]
        return model, [mapper(record) for record in records[:images]]

    return make
