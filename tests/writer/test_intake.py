"""What is checked before a batch is queued."""

import numpy as np
import pytest
import torch
from writer_helpers import make_batch

from lazycache.errors import CaptureError, UnsupportedDtypeError
from lazycache.types import RowBatch, SiteBlock, SiteSpec, TableBlock
from lazycache.writer.intake import Intake
from lazycache.writer.parts import SitePart, TablePart


def intake(**known) -> Intake:
    return Intake(**{"sites": {}, "columns": {}, **known})


def tokens(rows: int, **columns) -> TableBlock:
    index = {"example": np.zeros(rows, np.int64), "position": np.arange(rows, dtype=np.int32)}
    return TableBlock(rows, {**index, **columns})


def batch(block: TableBlock, **sites: torch.Tensor) -> RowBatch:
    return RowBatch(
        {"tokens": block}, {name: SiteBlock("tokens", values) for name, values in sites.items()}
    )


def test_a_batch_becomes_one_part_per_site_and_table():
    """Parts carry views of the values, the index columns and the column types."""
    given = make_batch(3)
    parts = intake().parts(given)
    sites = {part.spec.name: part for part in parts if isinstance(part, SitePart)}
    tables = {part.table: part for part in parts if isinstance(part, TablePart)}
    assert set(sites) == set(given.sites)
    assert sites["z_0"].spec == SiteSpec("z_0", "tokens", "float32", (2, 3), 24)
    for name, part in sites.items():
        values = given.sites[name].values
        assert part.nbytes == values.nbytes
        assert np.frombuffer(part.values, np.uint8).ctypes.data == values.data_ptr()
    assert tables["tokens"].types == {
        "example": "int64", "position": "int32", "token": "string",
    }  # fmt: skip
    assert set(sites["pooled"].index) == {"example", "position"} - {"position"}


def test_rows_without_any_values_are_left_out():
    """A batch in which nothing was kept has no parts."""
    assert intake().parts(batch(tokens(0), x=torch.zeros(0, 4))) == []


BAD = {
    "rows of a site": (batch(tokens(3), x=torch.zeros(2, 4)), "'x': 2 rows where .* has 3"),
    "no table": (
        RowBatch({}, {"x": SiteBlock("tokens", torch.zeros(2, 4))}),
        "no rows of its table 'tokens'",
    ),
    "unknown table": (RowBatch({"steps": tokens(1)}, {}), "'steps': there are tokens, examples"),
    "no index": (RowBatch({"tokens": TableBlock(1, {"position": [0]})}, {}), "no column example"),
    "short column": (batch(tokens(3, label=[1, 2])), "'label' of 'tokens': 2 values for 3 rows"),
    "mixed column": (batch(tokens(2, label=[1, "a"])), "'label'.*several types"),
    "None in an index": (
        RowBatch({"examples": TableBlock(2, {"example": [1, None]})}, {}),
        "'example'.*None is not allowed",
    ),
    "reserved": (batch(tokens(1, run=["a"])), "'run'.*reserved"),
    "not contiguous": (batch(tokens(2), x=torch.zeros(4, 2).T), "contiguous"),
    "0-d": (batch(tokens(1), x=torch.zeros(())), "no rows"),
    "no bytes": (batch(tokens(2), x=torch.zeros(2, 0)), "between 1 and"),
    "name": (
        RowBatch({"tokens": tokens(1)}, {"..": SiteBlock("tokens", torch.zeros(1, 2))}),
        "'..'",
    ),
    "site and column": (batch(tokens(2, x=[1, 2]), x=torch.zeros(2, 4)), "'x' is a site and"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_batch_that_does_not_fit_together_is_refused(case):
    """Every mismatch inside a batch is an error that names the site or column."""
    given, message = BAD[case]
    with pytest.raises(CaptureError, match=message):
        intake().parts(given)


def test_all_that_is_wrong_is_told_at_once():
    """One error lists every problem of a batch."""
    given = batch(tokens(3, label=[1]), x=torch.zeros(2, 4), y=torch.zeros(()))
    with pytest.raises(CaptureError) as caught:
        intake().parts(given)
    assert all(f"'{name}'" in str(caught.value) for name in ("label", "x", "y"))


def test_an_unsupported_dtype_names_its_site():
    """Complex values raise UnsupportedDtypeError with the site's name."""
    with pytest.raises(UnsupportedDtypeError, match=r"site 'x'.*complex64"):
        intake().parts(batch(tokens(1), x=torch.zeros(1, 2, dtype=torch.complex64)))


def test_a_site_stays_what_the_first_batch_made_it():
    """Another shape, dtype or table later is an error that says both."""
    checks = intake()
    checks.parts(batch(tokens(2), x=torch.zeros(2, 4)))
    for values in (torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.bfloat16)):
        with pytest.raises(CaptureError, match=r"but the dataset has float32 rows of shape \(4,\)"):
            checks.parts(batch(tokens(2), x=values))
    assert len(checks.parts(batch(tokens(2), x=torch.ones(2, 4)))) == 2


def test_a_site_of_the_dataset_keeps_its_spec():
    """Sites of earlier runs are as binding as those of this one."""
    checks = intake(sites={"x": SiteSpec("x", "tokens", "float16", (4,), 8)})
    with pytest.raises(CaptureError, match="the dataset has float16"):
        checks.parts(batch(tokens(2), x=torch.zeros(2, 4)))


def test_a_column_keeps_its_type_and_takes_what_fits():
    """The dataset's column types bind; ints fit into floats, text does not fit into ints."""
    checks = intake(columns={"tokens": {"score": "float64"}})
    (part,) = checks.parts(batch(tokens(2, score=[1, None])))
    assert part.columns["score"].to_pylist() == [1.0, None]
    with pytest.raises(CaptureError, match=r"string values in a column that is float64"):
        checks.parts(batch(tokens(1, score=["a"])))


def test_a_column_of_none_waits_for_its_type():
    """Nothing but None declares nothing; the first values do."""
    checks = intake()
    (part,) = checks.parts(batch(tokens(2, label=[None, None])))
    assert "label" not in part.columns
    (part,) = checks.parts(batch(tokens(2, label=["a", None])))
    assert part.types["label"] == "string"


def test_a_refused_batch_declares_nothing():
    """After an error the sites and columns of that batch are as unknown as before."""
    checks = intake()
    with pytest.raises(CaptureError):
        checks.parts(batch(tokens(2, label=["a", "b"]), x=torch.zeros(2, 4), y=torch.zeros(1, 1)))
    parts = checks.parts(batch(tokens(2, label=[1, 2]), x=torch.zeros(2, 9)))
    assert parts[0].types["label"] == "int64"
    assert set(checks.specs()) == {"x"}


def test_pieces_of_other_types_are_taken_as_they_come():
    """Index columns may be lists or tensors; they get the types of the format."""
    block = TableBlock(2, {"example": [5, 5], "position": torch.tensor([0, 1])})
    table, site = intake().parts(batch(block, x=torch.zeros(2, 1)))
    assert table.types == {"example": "int64", "position": "int32"}
    assert site.index["position"].dtype == np.int32


def ragged(widths, *, shape=(2, -1), elements=None) -> SiteBlock:
    count = 2 * int(np.sum(widths)) if elements is None else elements
    return SiteBlock("tokens", torch.zeros(count), shape, np.asarray(widths, np.int32))


def calls(rows: int, **columns) -> TableBlock:
    index = {"example": np.zeros(rows, np.int64), "position": np.arange(rows), "call": [0] * rows}
    return TableBlock(rows, {**index, **columns})


def test_a_ragged_site_carries_its_widths():
    """Widths are an index column of the part, and each row knows where it begins."""
    block = ragged([3, 1, 4])
    _, site = intake().parts(RowBatch({"tokens": tokens(3)}, {"pattern_0": block}))
    assert site.spec == SiteSpec("pattern_0", "tokens", "float32", (2, -1), 8, "ragged")
    assert list(site.index) == ["example", "position", "width"]
    assert site.index["width"] is block.widths
    assert [site.start(row) for row in range(4)] == [0, 24, 32, 64]
    assert site.nbytes == 64


def test_a_site_of_calls_may_have_the_first_rows_of_its_table():
    """Fewer calls than another site had are a prefix of the table's rows."""
    sites = {
        "all": SiteBlock("calls", torch.zeros(6, 2)),
        "first": SiteBlock("calls", torch.zeros(4, 2)),
        "none": SiteBlock("calls", torch.zeros(0, 2)),
    }
    table, *parts = intake().parts(RowBatch({"calls": calls(6)}, sites))
    assert table.types == {"example": "int64", "position": "int32", "call": "int32"}
    assert [(part.spec.name, part.rows) for part in parts] == [("all", 6), ("first", 4)]
    assert parts[1].index["position"].tolist() == [0, 1, 2, 3]
    assert list(parts[1].index) == ["example", "position", "call"]


BAD_KINDS = {
    "widths that come first": (
        RowBatch({"tokens": tokens(2)}, {"x": ragged([1, 2], shape=(-1, 2))}),
        r"'x': ragged rows have the shape \(n, -1\), not \(-1, 2\)",
    ),
    "rows of a width alone": (
        RowBatch({"tokens": tokens(2)}, {"x": ragged([1, 2], shape=(-1,), elements=3)}),
        r"'x': ragged rows have the shape \(n, -1\), not \(-1,\)",
    ),
    "fewer rows of tokens": (
        RowBatch({"tokens": tokens(3)}, {"x": ragged([1, 2])}),
        "'x': 2 rows where .* has 3",
    ),
    "more rows than calls": (
        RowBatch({"calls": calls(2)}, {"x": SiteBlock("calls", torch.zeros(3, 1))}),
        "'x': 3 rows where .* has 2",
    ),
    "columns of calls": (
        RowBatch({"calls": calls(2, label=[1, 2])}, {}),
        "'label' of 'calls'.*no columns but example, position, call",
    ),
    "no call": (RowBatch({"calls": tokens(2)}, {}), "'calls': no column call"),
    "values and widths": (
        RowBatch({"tokens": tokens(2)}, {"x": ragged([1, 2], elements=5)}),
        r"site 'x'.*6 values.*shape \(5,\)",
    ),
    "a width of nothing": (RowBatch({"tokens": tokens(2)}, {"x": ragged([0, 2])}), "from 1"),
    "no -1": (
        RowBatch({"tokens": tokens(2)}, {"x": ragged([1, 2], shape=(2, 3))}),
        "shape with one -1",
    ),
    "not contiguous": (
        RowBatch(
            {"tokens": tokens(1)},
            {"x": SiteBlock("tokens", torch.zeros(8)[::2], (2, -1), np.array([2]))},
        ),
        "contiguous",
    ),
    "step that is no number": (batch(tokens(2, step=["a", "b"])), "'step'.*int32"),
    "step too large": (batch(tokens(1, step=[1 << 40])), "'step'.*int32"),
}


@pytest.mark.parametrize("case", BAD_KINDS)
def test_ragged_rows_and_calls_that_do_not_fit_are_refused(case):
    """Every mismatch of widths, calls and steps is an error that names the site or column."""
    given, message = BAD_KINDS[case]
    with pytest.raises(CaptureError, match=message):
        intake().parts(given)


def test_a_site_cannot_become_ragged():
    """Layout, heads and table of a site are what its first batch made them."""
    checks = intake()
    checks.parts(RowBatch({"tokens": tokens(2)}, {"x": ragged([1, 2])}))
    for block in (SiteBlock("tokens", torch.zeros(2, 2)), ragged([2, 2], shape=(-1, 2))):
        with pytest.raises(
            CaptureError, match=r"but the dataset has float32 rows of shape \(2, -1"
        ):
            checks.parts(RowBatch({"tokens": tokens(2)}, {"x": block}))


def test_sequences_of_other_lengths_are_told_to_say_which_tokens_they_have():
    """Rows [length, units] of examples whose length differs: `annotate(mask=...)` is the answer."""
    checks, examples = intake(), TableBlock(1, {"example": np.array([0])})
    for values, advised in ((torch.zeros(1, 5, 4), False), (torch.zeros(1, 6, 4), True)):
        given = RowBatch({"examples": examples}, {"x": SiteBlock("examples", values)})
        if not advised:
            checks.parts(given)
            continue
        with pytest.raises(CaptureError, match=r"\(5, 4\) in 'examples'.*annotate\(mask=\.\.\.\)"):
            checks.parts(given)
    with pytest.raises(CaptureError) as caught:
        values = torch.zeros(1, 5, 3)
        checks.parts(RowBatch({"examples": examples}, {"x": SiteBlock("examples", values)}))
    assert "mask" not in str(caught.value)
