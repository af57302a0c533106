"""The site's reference of keys, against the configs themselves."""

import os
import re

import pytest
import site_keys

from ms_detr.config import config_folder, load

from .test_commands import keys_of

pytestmark = pytest.mark.slow  # 145 configs are read


@pytest.fixture(scope="module")
def configs() -> dict:
    return site_keys.read_configs(config_folder())


@pytest.fixture(scope="module")
def nodes(configs) -> dict:
    return site_keys.collect(configs)


@pytest.fixture(scope="module")
def rows(configs, nodes) -> dict[str, list[str]]:
    """The cells of every row, by the key in full."""
    found = {}
    for text in site_keys.pages(nodes, len(configs)).values():
        for line in text.splitlines():
            if line.startswith("| `"):
                key, *cells = re.split(r"(?<!\\) \| ", line.strip("| "))
                assert key.strip("`") not in found
                found[key.strip("`")] = cells
    return found


def test_every_config_is_read(configs):
    files = {path.relative_to(config_folder()).as_posix() for path in config_folder().rglob("*.py")}
    assert set(configs) == files and len(files) > 100


def test_every_key_of_every_config_has_its_row(configs, rows):
    for name, config in configs.items():
        keys = {key for key in keys_of(config) if not key.endswith("_target_")}
        missing = keys - set(rows) - {"model", "dataloader", "train", "optimizer", "lr_multiplier"}
        assert not missing, (name, missing)
    assert "dataloader.test.mapper.augmentations.0.short_edge_length" in rows


def test_nothing_else_has_a_row(configs, rows):
    known = {key for config in configs.values() for key in keys_of(config)}
    assert {key for key in rows if not re.search(r"\.\d+(\.|$)", key)} <= known


def test_configs_are_read_as_a_run_loads_them(configs):
    name = "ms_detr/ms_detr_masks_r50_300q_12ep.py"
    loaded = load(name)
    assert loaded.train.output_dir == "output/ms_detr_masks_r50_300q_12ep"
    loaded.train.output_dir = None
    assert loaded == configs[name]


def test_every_key_says_what_it_does_and_of_which_type_it_is(rows):
    for key, (default, kind, meaning) in rows.items():
        assert default and kind.strip("`"), key
        assert re.search("[a-z]{2}", meaning), key
        # Ours say it themselves; a mapping's entry leads to the mapping.
        assert not re.match("see `ms_detr", meaning), key
        assert " at 0x" not in default + kind + meaning, key


@pytest.mark.parametrize(
    ("key", "default", "kind", "meaning"),
    [
        ("model.num_queries", "`300`; ", "int", "one key each in a config"),
        ("model.encoder.num_layers", "`6`", "int", "layers"),
        ("model.decoder.epsilon", "`1e-05`", "float", "clamp of the inverse sigmoid"),
        ("model.neck.embed_dim", "`${model.embed_dim}`", "int", "follows `model.embed_dim`"),
        ("train.max_hours", "`null`", "None", "of a job; then it saves"),
        ("train.seed", "`42`", "int", "of the initialisation, of the order of the images"),
        ("train.amp", "[a mapping](#trainamp)", "dict", "mixed precision"),
        ("model.criterion.terms.o2m.assigner.k", "`6`", "int", ""),
        ("dataloader.train.dataset.images", "`null`", "", "folder"),
        ("optimizer.betas", "`[0.9, 0.999]`", "tuple[float", "coefficients"),
    ],
)
def test_a_row(rows, key, default, kind, meaning):
    assert rows[key][0].startswith(default)
    assert kind in rows[key][1]
    assert rows[key][2].startswith(meaning)


def test_a_variable_of_the_environment_changes_nothing(monkeypatch, configs):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    folder = config_folder() / "demo" / "family"
    (name, config), *_ = site_keys.read_configs(folder).items()
    assert config == configs[f"demo/family/{name}"]
    assert os.environ["DETECTRON2_DATASETS"] == "/elsewhere"
