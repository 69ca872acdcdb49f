"""`ValueWithInfo`, metadata, sizes and positions by target."""

import copy
import pickle

import numpy as np
import pytest
import torch

from lazycache import ActivationCache
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.errors import SelectionError
from lazycache.samples import pattern_cache, small_cache


@pytest.fixture
def noted():
    return ValueWithInfo(torch.arange(6.0).reshape(2, 3), {"of": "batch, unit"})


def test_stands_for_its_value(noted):
    """Attributes, indexing, operators and torch functions are those of the tensor."""
    x = noted.value()
    assert (noted.shape, noted.mean().item(), len(noted)) == (x.shape, 2.5, 2)
    assert torch.equal(noted[0, 1:], x[0, 1:])
    for got, want in (
        (noted + 1, x + 1), (1 - noted, 1 - x), (noted @ x.T, x @ x.T), (-noted, -x),
        (noted > 2, x > 2), (noted == 2, x == 2), (2**noted, 2**x), (noted * noted, x * x),
        (torch.stack([noted, noted]), torch.stack([x, x])), (torch.sum(noted), x.sum()),
        (torch.add(x, other=noted), x + x), (x + noted, x + x),
    ):  # fmt: skip
        assert torch.equal(got, want)
    assert np.array_equal(np.asarray(noted), x.numpy())
    noted[0, 0] = 9
    assert x[0, 0] == 9
    with pytest.raises(AttributeError):
        _ = noted.nothing


@pytest.mark.parametrize(
    "again",
    [
        copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v)), lambda v: v.to("cpu"),
        lambda v: v.clone(), lambda v: v.detach(), lambda v: v.cpu(), lambda v: v.to(torch.float64),
    ],
)  # fmt: skip
def test_copies_keep_the_info(noted, again):
    """No recursion on loading, no bare tensor from `deepcopy` or `.to`."""
    other = again(noted)
    assert type(other) is ValueWithInfo
    assert other.info() == noted.info()
    assert torch.equal(other.value().float(), noted.value())


def test_an_info_survives_a_file(noted, tmp_path):
    """`torch.save` and `torch.load` bring it back."""
    torch.save(noted, tmp_path / "v.pt")
    assert torch.load(tmp_path / "v.pt", weights_only=False).info() == noted.info()


def test_metadata_and_info_are_set_by_their_methods():
    """`add_with_info` and `add_metadata` as easyroutine has them."""
    cache = ActivationCache()
    cache.add_with_info("x", torch.ones(2), info="why")
    cache.add_metadata(["last"], "gpt2", {"avg": True}, [])
    assert (cache["x"].info(), cache["x"].value().shape) == ("why", (2,))
    assert list(cache["metadata"]) == [
        "target_token_positions", "model_name", "extraction_config", "interventions",
    ]  # fmt: skip
    with pytest.raises(TypeError):
        cache.add_with_info(3, torch.ones(2), "why")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.ones(25), "100 B"),  # there: 0.10 B
        (torch.ones(250), "1.00 KB"),  # there: 1.00 B
        (torch.ones(3, 1000, dtype=torch.bfloat16), "6.00 KB"),
        (torch.zeros(2_000_000, dtype=torch.int8), "2.00 MB"),
        ([torch.ones(250), (torch.ones(250), {"a": np.ones(125)})], "3.00 KB"),
        (ValueWithInfo(torch.ones(250), "x"), "1.00 KB"),
        ("é" * 10, "20 B"),
        (3, "8 B"),
        (None, "0 B"),
        (torch.empty(10**10, device="meta", dtype=torch.int8), "10.00 GB"),
    ],
)
def test_sizes_are_right_in_every_unit_and_of_every_value(value, text):
    """Below a kilobyte too, and in lists, dicts and values with info."""
    cache = ActivationCache({"k": value})
    assert cache.memory_size("k") == cache.memory_size() == text
    assert cache.memory_size("other") == "Not present: 0 B"


def test_the_tree_takes_every_value_and_groups_layers_and_heads(capsys):
    """Scalars, info and `avg_attn_pattern_*` crashed it; elements of lists have their own size."""
    cache = pattern_cache()
    cache["resid_out_0"], cache["resid_out_12"] = torch.ones(250), torch.ones(500)
    cache["avg_attn_pattern_L1H2"] = ValueWithInfo(torch.ones(250), "x")
    cache["n"] = 3
    cache["last_layernorm"] = {"mean": torch.ones(250), "all": [torch.ones(1), torch.ones(2)]}
    cache["ids"] = [1, 2, 3]
    tree = cache.memory_tree(print_tree=True)
    assert tree["last_layernorm"] == {"mean": "1.00 KB", "all": {"[0]": "4 B", "[1]": "8 B"}}
    assert (tree["n"], tree["ids"], tree["z_0"], tree["head_out_0"]) == (
        "8 B",
        "24 B",
        "48 B",
        "0 B",
    )
    assert "├── avg_attn_pattern_L1H2: 1.00 KB\n" in capsys.readouterr().out
    grouped = cache.memory_tree(grouped_tree=True)
    assert grouped["resid_out_*"] == "3.00 KB (2 items)"
    assert grouped["avg_attn_pattern_L*H*"] == "1.00 KB (1 item)"
    assert cache.io.bytes == 0
    assert ActivationCache().memory_tree(print_tree=True, grouped_tree=True) == {}


def test_positions_by_target_keep_a_batch_of_one():
    """A target of one column loses that dimension only; lists, averages, info and lazy values."""
    mapping = {"last": [2], "subject": [0, 1], "info": "avg"}
    x = torch.rand(1, 3, 1)
    cache = ActivationCache({"x": x, "list": [x, x[:, :3]], "mapping_index": mapping})
    cache.add_with_info("noted", x, "avg")
    assert torch.equal(cache.map_to_dict("x")["last"], x[:, 2])
    assert torch.equal(cache.map_to_dict("x")["subject"], x[:, [0, 1]])
    assert [part.shape for part in cache.map_to_dict("list")["last"]] == [(1, 1)] * 2
    assert torch.equal(cache.map_to_dict("noted")["last"], x[:, 2])
    assert list(cache.map_to_dict("x")) == ["last", "subject"]
    lazy = small_cache()
    lazy["mapping_index"] = {"first": [0]}
    assert lazy.map_to_dict("resid_out_0")["first"].shape == (3, 2)
    assert lazy.io.bytes == 0


def test_positions_that_cannot_be_mapped_say_why():
    """No mapping, no such column, a value without columns, no such key."""
    cache = ActivationCache({"x": torch.ones(1, 3), "n": 3})
    with pytest.raises(KeyError, match="mapping_index"):
        cache.map_to_dict("x")
    cache["mapping_index"] = {"last": [7]}
    for key in ("x", "n"):
        with pytest.raises(SelectionError, match=f"'{key}' has not got the columns"):
            cache.map_to_dict(key)
    cache["mapping_index"] = 3
    with pytest.raises(SelectionError, match="int"):
        cache.map_to_dict("x")
    with pytest.raises(KeyError, match="'y'"):
        cache.map_to_dict("y")
