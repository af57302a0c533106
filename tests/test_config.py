"""Configs: overrides that are checked."""

import builtins
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from ms_detr import config, overrides

TEXT = """
from types import SimpleNamespace

from detectron2.config import LazyCall as L
import torch

from .part import terms as _terms

model = L(SimpleNamespace)(
    num_classes=80,
    name="r50",
    links=dict(classes="${model.num_classes}", nowhere="${model.gone}"),
    terms=_terms,
    layers=[dict(width=1), dict(width=2)],
    order=("cross", "self"),
    norm=torch.nn.BatchNorm2d,
    must="???",
)
optimizer = dict(lr=2e-4, betas=(0.9, 0.999))
train = dict(max_iter=None, epochs=12, amp=False, init_checkpoint="https://example.org/r50.pth")
"""
PART = """
from types import SimpleNamespace

from detectron2.config import LazyCall as L

terms = L(SimpleNamespace)(o2o=L(SimpleNamespace)(weight=1.0), o2m=L(SimpleNamespace)(weight=1.0))
"""


B_C = "train.init_checkpoint=b c.pth"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "part.py").write_text(PART)
    path = tmp_path / "some.py"
    path.write_text(TEXT)
    return path


def value(file: Path, key: str, *overrides: str):
    cfg = config.load(file, overrides)
    for name in key.split("."):
        cfg = cfg[int(name) if name.isdigit() else name]
    return cfg


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1,2.5,null", ["a.b=1", "a.b=2.5", "a.b=null"]),
        ("a=[1,2],[3]", ["a=[1,2]", "a=[3]"]),
        ("a=range(1,4)", ["a=1", "a=2", "a=3"]),
        ("+a='x,y',z", ["+a='x,y'", "+a=z"]),
        ("a=[1,2]", ["a=[1,2]"]),
        ("a='1,2'", ["a='1,2'"]),
        ("~a", ["~a"]),
        ("train.init_checkpoint=~/a=1.pth,b c.pth", ["train.init_checkpoint=~/a=1.pth", B_C]),
        ("x.images='a,b'", ["x.images='a,b'"]),
    ],
)
def test_an_override_of_several_values_is_several_overrides(text, expected):
    assert overrides.expand(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a=1,", "can't be read"), ("a=interval(0,1)", "has no list of values")],
)
def test_values_that_cannot_be_listed(text, problem):
    with pytest.raises(ValueError, match=problem):
        overrides.expand(text)


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("model.num_classes=7", "model.links.classes", 7),
        ("model.layers.1.width=5", "model.layers.1.width", 5),
        ("model.order=[self,cross,ffn]", "model.order", ["self", "cross", "ffn"]),
        ("model.terms.o2m=null", "model.terms.o2m", None),
        ("model.terms={o2m:null,o2o:{weight:2}}", "model.terms.o2o.weight", 2.0),
        ("model.must=3", "model.must", 3),
        ("model.norm=null", "model.norm", None),
        ("model.links.nowhere=${model.num_classes}", "model.links.nowhere", 80),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("train.epochs=1e1", "train.epochs", 10),
        ("train.max_iter=100", "train.max_iter", 100),
        ("train.epochs=null", "train.epochs", None),
        ("train.amp=true", "train.amp", True),
        ("train.init_checkpoint=", "train.init_checkpoint", ""),
        ('train.init_checkpoint=""', "train.init_checkpoint", ""),
        ("train.init_checkpoint=/a/b c-1.pth", "train.init_checkpoint", "/a/b c-1.pth"),
        ("model.name='50'", "model.name", "50"),
        ("+model.extra=1", "model.extra", 1),
        ("+model.extra={a:[1,{b:2}]}", "model.extra.a.1.b", 2),
        ("+top={a:1}", "top.a", 1),
    ],
)
def test_override(file, override, key, expected):
    assert value(file, key, override) == expected
    assert type(value(file, key, override)) is type(expected) or isinstance(expected, list)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/x", "{home}/x"),
        ("~/x?a=b", "{home}/x?a=b"),
        ("~", "{home}"),
        ("/a b/c=d,e:f/{g}[h]&(i)", "/a b/c=d,e:f/{{g}}[h]&(i)"),
        ("a~/~b", "a~/~b"),
        ("50", "50"),
        ("true", "true"),
        ("C:\\runs\\x\\", "C:\\runs\\x\\"),
        ('it\'s "so" \\"here', 'it\'s "so" \\"here'),
        ("${model.name}/x", "r50/x"),
        ('"~/quoted, still"', "{home}/quoted, still"),
        ("https://example.org/a~b.pth?x=1,2", "https://example.org/a~b.pth?x=1,2"),
    ],
)
def test_a_path_is_taken_as_it_stands(file, monkeypatch, text, path):
    monkeypatch.setenv("HOME", "/home of me")
    expected = path.format(home="/home of me")
    assert value(file, "train.init_checkpoint", f"train.init_checkpoint={text}") == expected
    assert value(file, "model.images", f"+model.images={text}") == expected


def test_a_home_folder_is_found_wherever_a_config_names_it(file, monkeypatch):
    monkeypatch.setenv("HOME", "/me")
    file.write_text(TEXT + 'train["output_dir"] = "~/runs"\nmodel.layers[0]["file"] = "~/f"\n')
    assert value(file, "train.output_dir") == "/me/runs"
    assert value(file, "model.layers.0.file") == "/me/f"
    assert value(file, "model.name", "model.name=~/n") == "/me/n"
    assert value(file, "model.links.all", "+model.links.all=${train.output_dir}/b") == "/me/runs/b"
    with pytest.raises(ValueError, match=r"'~no-one/x': there is no home folder ~no-one"):
        value(file, "train.output_dir", "train.output_dir=~no-one/x")


def test_a_config_in_the_home_folder(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert config.find(f"~/{file.name}") == file


LENGTH = ("train.epochs", "train.max_iter")


@pytest.mark.parametrize(
    ("before", "overrides", "expected"),
    [
        ((12, None), (), (12, None)),
        ((None, 3200), ("train.epochs=50",), (50, None)),
        ((12, None), ("train.max_iter=7",), (None, 7)),
        ((12, None), ("train={max_iter:7}",), (None, 7)),
        ((12, None), ("train.epochs=null", "train.max_iter=7"), (None, 7)),
        ((None, 3200), ("train.max_iter=null", "train.epochs=5"), (5, None)),
        ((12, None), ("train.max_iter=7", "train.max_iter=null"), (12, None)),
        ((12, None), ("model.num_classes=1",), (12, None)),
    ],
)
def test_the_length_that_is_given_takes_the_others_place(file, before, overrides, expected):
    epochs, max_iter = before
    file.write_text(TEXT + f"train.update(epochs={epochs}, max_iter={max_iter})\n")
    assert tuple(value(file, key, *overrides) for key in LENGTH) == expected


def test_two_lengths_are_an_error(file):
    with pytest.raises(ValueError, match=r"^train\.epochs=5 and train\.max_iter=7 both say"):
        config.load(file, ["train.max_iter=7", "train.epochs=5"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_clases=7", "did you mean model.num_classes"),
        ("o2m.weight=7", "did you mean model.terms.o2m.weight"),
        ("num_classes=7", "did you mean model.num_classes"),
        ("model.terms.o3m.weight=1", "did you mean model.terms.o2m.weight"),
        ("modle.num_classes=1", "unknown config key 'modle.num_classes'"),
        ("model.layers.2.width=1", "did you mean model.layers"),
        ("model.terms={o3m:null}", "unknown config key 'model.terms.o3m'"),
        ("~model.terms.o3m", "unknown config key 'model.terms.o3m'"),
        ("+modle.extra=1", "unknown config key 'modle'"),
        ("model.name.length=1", "model.name is a str ('r50') and has no keys"),
        ("train.max_iter.x=1", "train.max_iter is null and has no keys"),
        ("+model.layers.2=1", "model.layers is a list"),
        ("+model.name=x", "without the +"),
        ("train.epochs=abc", "train.epochs is an int (12), got a str ('abc')"),
        ("train.epochs=1.5", "got a float (1.5)"),
        ("train.epochs=true", "got a bool"),
        ("train.amp=1", "train.amp is a bool (False), got an int"),
        ("model.name=50", "needs quotes"),
        ("model.order=cross", "model.order is a list"),
        ("model.order={a:1}", "got a mapping"),
        ("optimizer.lr=fast", "got a str"),
        ("optimizer.lr=[1]", "got a list"),
        ("model.terms=3", "only null can take its place"),
        ("model.num_classes=${model.gone}", "model.gone"),
        ("model.num_classes=${model.name}", "model.num_classes is an int (80), got a str ('r50')"),
        ("train.epochs=1,2", "write key=value"),
        ("++model.name=x", "write key=value"),
        ("model.name", "can't be read"),
        ("model.order=[a", "can't be read"),
        ("model.name=x?a=b", "quote a value"),
    ],
)
def test_wrong_override(file, override, message):
    with pytest.raises(ValueError, match="^override") as error:
        config.load(file, [override])
    assert message in str(error.value)
    assert f"override '{override}'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["foo.bar", "model.foo.bar", "model.layers.2"])
def test_no_plus_is_advised_where_it_fails(file, key):
    with pytest.raises(ValueError, match=f"unknown config key '{key}'") as error:
        config.load(file, [f"{key}=1"])
    assert "+" not in str(error.value)
    with pytest.raises(ValueError):
        config.load(file, [f"+{key}=1"])


def test_remove(file):
    assert "o2m" not in value(file, "model.terms", "~model.terms.o2m")
    assert value(file, "model.layers", "~model.layers.0") == [{"width": 2}]


def test_null_term_arrives_as_none(file):
    cfg = config.load(file, ["model.terms.o2m=null", "~model.links", "~model.must"])
    terms = instantiate(cfg.model).terms
    assert terms.o2o.weight == 1.0 and terms.o2m is None


def test_overrides_apply_in_order_and_leave_the_file_alone(file):
    assert value(file, "train.epochs", "train.epochs=1", "train.epochs=2") == 2
    assert value(file, "train.epochs") == 12


names = st.text("abcxyz_", min_size=1, max_size=6)
scalars = st.one_of(
    st.booleans(), st.integers(-9, 9), st.floats(-1, 1), st.sampled_from(["a", "b"])
)
trees = st.dictionaries(
    names, st.recursive(scalars, lambda s: st.dictionaries(names, s)), min_size=1
)


@settings(max_examples=30)
@given(trees, st.data())
def test_any_key_can_be_set_and_no_other(tree, data):
    cfg = DictConfig(tree)
    keys = overrides._dotted_keys(cfg)
    key = data.draw(st.sampled_from(keys))
    before = {k: _select(cfg, k) for k in keys if not k.startswith(f"{key}.")}
    overrides.apply(cfg, [f"{key}=null"])
    assert _select(cfg, key) is None
    for other, old in before.items():
        if other != key and not key.startswith(f"{other}."):
            assert _select(cfg, other) == old
    with pytest.raises(ValueError, match="unknown config key"):
        overrides.apply(cfg, ["unknown=1"])


def _select(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def test_yaml_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(ValueError, match="can run code"):
        config.load(tmp_path / "config.yaml")


def test_missing_file_names_the_nearest(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    (folder / "ms_detr").mkdir(parents=True)
    (folder / "ms_detr" / "r50_12ep.py").write_text("train = dict(epochs=12)")
    monkeypatch.setattr(config, "config_folder", lambda: folder)
    with pytest.raises(FileNotFoundError, match="configs/ms_detr/r50_12ep.py"):
        config.load("configs/ms_detr/r50_12epochs.py")
    with pytest.raises(FileNotFoundError, match=r"not a \.py file.*configs/ms_detr/r50_12ep.py"):
        config.load("ms_detr/r50_12ep")
    # Shipped configs are found from any folder, with and without "configs/".
    monkeypatch.chdir(tmp_path / "configs" / "ms_detr")
    assert config.load("configs/ms_detr/r50_12ep.py").train.epochs == 12
    assert config.load("ms_detr/r50_12ep.py").train.epochs == 12


def test_a_file_here_comes_before_a_shipped_one(tmp_path, monkeypatch):
    for name, epochs in (("configs", 12), (".", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "a.py").write_text(f"train = dict(epochs={epochs})")
    monkeypatch.setattr(config, "config_folder", lambda: tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    assert config.load("a.py").train.epochs == 1


def test_config_folder_holds_configs():
    assert (config.config_folder() / "ms_detr").is_dir()


def test_the_files_name_is_the_runs_where_none_is_given(tmp_path):
    (tmp_path / "mine.py").write_text("train = dict(output_dir=None)")
    assert config.load(tmp_path / "mine.py").train.output_dir == "output/mine"
    here = config.load(tmp_path / "mine.py", ["train.output_dir=here"])
    assert here.train.output_dir == "here"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import math\nmodel = dict(a=math.tau_)", r"bad\.py, line 2: AttributeError: .*tau_"),
        ("\nimport mathh", r"bad\.py, line 2: ModuleNotFoundError: .*'mathh'$"),
        ("x = 1\nmodel = dict(a=", r"bad\.py has syntax error! Line 2: "),
        ("from .part import model", r"part\.py has syntax error! Line 1: "),
        ("from ..common.part import x", r"line 1: ImportError: .*ms_detr\.recipes"),
        (
            "from ms_detr.config import load\nload('none.py')",
            r"bad\.py, line 2: .*none\.py not found",
        ),
    ],
)
def test_error_in_a_config_file(tmp_path, text, problem):
    path = tmp_path / "bad.py"
    path.write_text(text)
    (tmp_path / "part.py").write_text("model = dict(a=")
    original = builtins.__import__
    with pytest.raises(ValueError, match=problem):
        config.load(path)
    assert builtins.__import__ is original


class Unprintable:
    def __repr__(self):
        return "an object"


def test_text_is_plain_and_complete():
    cfg = DictConfig(
        {
            "model": L(torch.nn.Linear)(in_features=2, out_features="${size}", act=torch.relu),
            "thing": Unprintable(),
            "size": 3,
            "betas": (0.9, 0.99),
        },
        flags={"allow_objects": True},
    )
    text = config.to_text(cfg)
    assert "_target_: torch.nn.modules.linear.Linear" in text
    assert text.index("_target_") < text.index("in_features")
    for part in ("out_features: '${size}'", "an object", "size: 3", "[0.9, 0.99]"):
        assert part in text
    assert "!!python" not in text
    described = config.describe("a.py", ("size=3",), cfg)
    assert described == {"file": "a.py", "overrides": ["size=3"], "text": text}


def test_a_scheduler_in_a_numbers_place():
    """Where it is to stand, the number is taken away first: fading, on the command line."""
    key = "model.criterion.terms.o2m.weight"
    scheduler = "fvcore.common.param_scheduler.LinearParamScheduler"
    value = f"{{_target_: {scheduler}, start_value: 1, end_value: 0}}"
    published = ("bccd/ms_detr_published.py", [f"~{key}", f"+{key}={value}"])
    made = [
        instantiate(OmegaConf.select(config.load(name, changes), key))
        for name, changes in (published, ("bccd/ms_detr_fading.py", []))
    ]
    assert [made[0](at) for at in (0.0, 0.25, 1.0)] == [made[1](at) for at in (0.0, 0.25, 1.0)]
    assert made[0](0.25) == 0.75
