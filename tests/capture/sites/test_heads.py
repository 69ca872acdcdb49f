"""Cutting heads out of projections, against indexing written by hand."""

from types import SimpleNamespace

import pytest
import torch

from lazycache.capture.sites.heads import CUTS, Cut, HeadShape, cut_heads, usual_shape
from lazycache.errors import CaptureError

HEADS, KV, SIZE = 6, 2, 5
GROUPED = HeadShape(HEADS, KV, SIZE)
EQUAL = HeadShape(HEADS, HEADS, SIZE)
ONE = HeadShape(HEADS, 1, SIZE)


def _unit(kind, shape, head, i):
    """Where unit i of a head is in a row, in plain arithmetic."""
    layout, _, part = kind.partition(".")
    size, per = shape.d_head, shape.heads // shape.kv_heads
    if layout in ("heads", "kv_heads"):
        return head * size + i
    if layout == "concat":
        before = {"q": 0, "k": shape.heads, "v": shape.heads + shape.kv_heads}[part]
        return (before + head) * size + i
    if layout == "per_head":
        return head * 3 * size + "qkv".index(part) * size + i
    group, within = (head // per, head % per) if part == "q" else (head, per + "kv".index(part))
    return group * (per + 2) * size + within * size + i


def _units(kind, shape):
    layout = kind.partition(".")[0]
    return shape.d_head * {
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "per_head": 3 * shape.heads,
    }.get(layout, shape.heads + 2 * shape.kv_heads)


CASES = [
    (kind, shape)
    for kind in CUTS
    if kind != "pattern"
    for shape in (GROUPED, EQUAL, ONE)
    if not (kind.startswith("per_head") and shape is not EQUAL)
]


@pytest.mark.parametrize(("kind", "shape"), CASES)
@pytest.mark.parametrize("lead", [(7,), (2, 7)])
def test_every_cut_is_the_indexing_that_its_name_says(kind, shape, lead):
    """Each unit of each head is the one that plain arithmetic finds in the row."""
    values = torch.randn(*lead, _units(kind, shape))
    cut = Cut(kind, shape)
    found = cut_heads(values, cut)
    assert found.shape == (*lead, *cut.row)
    for head in range(found.shape[-2]):
        for i in range(SIZE):
            assert torch.equal(found[..., head, i], values[..., _unit(kind, shape, head, i)])


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_cut_is_a_view_unless_the_heads_do_not_lie_side_by_side(kind, shape):
    """No copy is made of a whole batch before its rows are chosen."""
    values = torch.randn(3, _units(kind, shape))
    same = cut_heads(values, Cut(kind, shape)).untyped_storage().data_ptr()
    copied = kind == "grouped.q" and 1 < shape.kv_heads < shape.heads
    assert (same == values.untyped_storage().data_ptr()) != copied


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_row_of_another_width_is_refused(kind, shape):
    """Values whose width is not that of the heads are an error, never wrong heads."""
    with pytest.raises(CaptureError, match=r"units, but .* makes"):
        cut_heads(torch.zeros(3, _units(kind, shape) + SIZE), Cut(kind, shape))


def test_a_pattern_is_kept_as_it_is():
    """[batch, heads, queries, keys] is what a pattern already is."""
    pattern = torch.rand(2, HEADS, 3, 4)
    cut = Cut("pattern", GROUPED)
    assert cut_heads(pattern, cut) is pattern
    assert cut.row == (HEADS, -1)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5, 3, 4), (6,), ()])
def test_what_is_no_pattern_is_refused(shape):
    """A tensor without the model's heads in its second dimension is no pattern."""
    with pytest.raises(CaptureError, match="An attention pattern is"):
        cut_heads(torch.zeros(shape), Cut("pattern", GROUPED))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"num_attention_heads": 4, "hidden_size": 32}, (4, 4, 8)),
        ({"num_attention_heads": 4, "hidden_size": 32, "num_key_value_heads": 2}, (4, 2, 8)),
        ({"num_attention_heads": 4, "hidden_size": 32, "head_dim": 16}, (4, 4, 16)),
        ({"num_attention_heads": 4, "hidden_size": 32, "head_dim": None}, (4, 4, 8)),
        ({"n_head": 2, "n_embd": 6}, (2, 2, 3)),
        ({"n_heads": 2, "d_model": 6}, (2, 2, 3)),
        ({"n_heads": 2, "dim": 6}, (2, 2, 3)),
        ({"num_heads": 4, "d_model": 6, "d_kv": 5}, (4, 4, 5)),
        ({"num_attention_heads": 4, "hidden_size": 32, "num_key_value_heads": None}, (4, 4, 8)),
        ({"hidden_size": 32}, None),
        ({"num_attention_heads": 4}, None),
        ({"num_attention_heads": 5, "hidden_size": 32}, None),
        ({"num_attention_heads": [4, 8], "hidden_size": 32}, None),
        ({"num_attention_heads": 0, "hidden_size": 32}, None),
    ],
)
def test_heads_are_read_from_the_usual_attributes(config, shape):
    """Configurations spell it in several ways; what they do not tell is None, never a guess."""
    found = usual_shape(SimpleNamespace(**config))
    assert found == (None if shape is None else HeadShape(*shape))
