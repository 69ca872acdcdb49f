"""Finding a family in a model, inside wrappers, and registering one's own."""

import copy
import threading

import decoder_models as d
import pytest
import stack_helpers as h
import torch
import transformers
from torch import nn

import lazycache as lc
from lazycache.capture.sites import architectures
from lazycache.capture.sites.architectures import FAMILIES, locate, register_architecture
from lazycache.capture.sites.family import Family, Place, Projection
from lazycache.capture.sites.family_check import check_family
from lazycache.capture.sites.heads import Cut, HeadShape
from lazycache.capture.sites.resolve import resolve, resolve_sites
from lazycache.errors import CaptureError


@pytest.fixture(autouse=True)
def _forget():
    before = list(architectures._registered)
    yield
    architectures._registered[:] = before


def _llama():
    kind, config, _ = d.MODELS["llama"]
    return h.make(getattr(transformers, kind), config())


class _Toy(nn.Module):
    """A model of nobody's: two blocks, and a head."""

    def __init__(self, model_type="toy", **config):
        super().__init__()
        self.config = transformers.PretrainedConfig(**config)
        self.config.model_type = model_type
        self.core = nn.Module()
        self.core.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.head = nn.Linear(6, 9)

    def forward(self, x):
        for block in self.core.blocks:
            x = block(x)
        return self.head(x)


def _toy_family(**changes):
    given = {
        "name": "toy",
        "model_types": frozenset({"toy"}),
        "bases": ("core.",),
        "layers": "blocks",
        "sites": {
            "resid_out": Place("{base}blocks.{L}:out"),
            "z": Place("{base}blocks.{L}:in", "heads"),
            "logits": Place("head:out"),
        },
        "projection": Projection("{base}blocks.{L}"),
        "head_shape": lambda _: HeadShape(2, 2, 3),
    }
    return Family(**(given | changes))


def test_every_family_of_the_table_could_be_registered():
    """The tables that lazycache brings pass the checks that a user's has to pass."""
    for family in FAMILIES:
        check_family(family)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_no_model_is_in_two_tables():
    """Which table holds for a configuration does not depend on the order of the tables."""
    for family in FAMILIES:
        told_apart = [
            (other.prefix, other.layers, other.when, other.has)
            for other in FAMILIES
            if other.model_types & family.model_types
        ]
        own = (family.prefix, family.layers, family.when, family.has)
        assert told_apart.count(own) == 1, family.name


def test_a_registered_family_gives_its_models_names():
    """After `lc.register_architecture` the sites of a model of one's own have canonical names."""
    model = _Toy()
    assert locate(model) == ()
    lc.register_architecture(_toy_family())
    points = resolve(model, "*")
    assert list(points) == ["logits", "resid_out_0", "resid_out_1", "z_0", "z_1"]
    assert points["z_1"].cut == Cut("heads", HeadShape(2, 2, 3))
    assert list(resolve_sites(model, "head_out_0").projections) == ["head_out_0.weight"]


def test_a_registered_family_comes_before_those_that_are_known():
    """A table of one's own for a known model type is the one that holds."""
    mine = _toy_family(
        name="mine",
        model_types=frozenset({"llama"}),
        bases=("model.",),
        layers="layers",
        sites={"resid_out": Place("{base}layers.{L}:out")},
        projection=None,
    )
    register_architecture(mine)
    assert [stack.family.name for stack in locate(_llama())] == ["mine"]


def test_the_same_family_again_changes_nothing_and_another_is_refused():
    """A cell that is run twice is no error; two tables for the same models are, unless replaced."""
    first = _toy_family()
    register_architecture(first)
    register_architecture(copy.copy(first))
    other = _toy_family(name="other")
    with pytest.raises(CaptureError, match=r"'toy' was registered for toy before.*replace=True"):
        register_architecture(other)
    register_architecture(other, replace=True)
    assert [stack.family.name for stack in locate(_Toy())] == ["other"]
    register_architecture(_toy_family(name="wide", when={"wide": True}))
    assert [stack.family.name for stack in locate(_Toy(wide=True))] == ["wide"]
    assert [stack.family.name for stack in locate(_Toy())] == ["other"]


def test_threads_may_register_at_once():
    """Of families that are registered at once none is lost."""
    names = [f"toy{n}" for n in range(20)]
    threads = [
        threading.Thread(
            target=register_architecture,
            args=(_toy_family(name=name, model_types=frozenset({name})),),
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(locate(_Toy(name)) for name in names)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_types": "toy"}, "model_types is 'toy', not a collection of names"),
        ({"model_types": frozenset()}, "model_types is"),
        ({"bases": ()}, "bases is"),
        ({"bases": ("core",)}, r"base 'core' must end with a dot"),
        ({"prefix": "enc."}, r"prefix 'enc\.' is none of encoder\., decoder\."),
        ({"sites": {"resid_uot": Place("a:out")}}, r"no site 'resid_uot'. Nearest: resid_out"),
        ({"sites": {"head_out": Place("a:out")}}, "give `projection`, not a place"),
        ({"sites": {"embed": "a:out"}}, r"embed: 'a:out' is no Place"),
        ({"sites": {"embed": Place("{base}a")}}, "must end with the side"),
        ({"sites": {"embed": Place("{base}a:grad_out")}}, "must end with the side"),
        ({"sites": {"resid_out": Place("{base}a:out")}}, r"has no \{L\}, so all layers would be"),
        ({"sites": {"resid_out": Place("{bas}{L}:out")}}, r"has \{bas\}; a template may have"),
        ({"sites": {"resid_out": Place("{L:out")}}, "is no template"),
        ({"sites": {"resid_out": Place("{}{L}:out")}}, r"has \{\}; a template may have"),
        ({"sites": {"z": Place("{L}:in", "head")}}, r"no cut 'head'. Nearest: heads"),
        ({"sites": {"z": Place("{L}:in")}}, "a projection needs the site z, cut into 'heads'"),
        ({"projection": Projection("{x}")}, r"projection: '\{x\}' has \{x\}"),
        ({"attn_norm": "{x}"}, r"attn_norm: '\{x\}' has \{x\}"),
    ],
)
def test_a_table_that_could_not_be_applied_is_refused(changes, says):
    """What is wrong in a table is said when it is registered, not when a capture fails."""
    with pytest.raises(CaptureError, match=says):
        register_architecture(_toy_family(**changes))
    assert locate(_Toy()) == ()


@pytest.mark.parametrize("given", [None, {"name": "toy"}, "toy"])
def test_what_is_no_family_is_refused(given):
    """Anything but a Family is an error of ours."""
    with pytest.raises(CaptureError, match=r"takes a lazycache\.capture\.sites\.family\.Family"):
        register_architecture(given)


class _Peft(nn.Module):
    """A model in an adapter's wrapper, which passes attributes on as PEFT does."""

    def __init__(self, model):
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model").model, name)

    def forward(self, *args, **kwargs):
        return self.base_model.model(*args, **kwargs)


@pytest.mark.parametrize(
    ("wrap", "root"),
    [
        (nn.DataParallel, "module."),
        (torch.compile, "_orig_mod."),
        (_Peft, "base_model.model."),
        (lambda model: nn.DataParallel(_Peft(model)), "module.base_model.model."),
    ],
)
def test_wrappers_are_looked_into(wrap, root):
    """Canonical names are the same inside a wrapper, at paths with its prefix."""
    model = _llama()
    plain, wrapped = resolve(model, "*"), resolve(wrap(model), "*")
    assert list(wrapped) == list(plain)
    assert {name: f"{root}{point.path}" for name, point in plain.items()} == {
        name: point.path for name, point in wrapped.items()
    }
    assert {n: p.cut for n, p in plain.items()} == {n: p.cut for n, p in wrapped.items()}
    kept = resolve_sites(wrap(model), "head_out_1").projections["head_out_1.weight"]
    assert kept.path == f"{root}model.layers.1.self_attn.o_proj"


def test_a_wrapper_sees_the_same_values():
    """What passes the points of a wrapped model is what passes those of the model itself."""
    model = _llama()
    plain, _ = h.see(model, {"input_ids": d.ids()})
    inside, _ = h.see(_Peft(model), {"input_ids": d.ids()})
    h.same_bits(inside, plain)


def test_other_models_with_a_known_type_are_not_taken_for_the_family():
    """A model type without the layers of its table has no canonical names."""
    assert locate(_Toy("llama")) == ()
