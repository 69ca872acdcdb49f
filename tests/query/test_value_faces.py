"""What values show in a notebook: nothing is read for it, and no text of a dataset is obeyed."""

import re

import numpy as np
import pytest
import torch

from lazycache.cache.aggregates.histogram import Histogram
from lazycache.care.checks.report import Problem, Report
from lazycache.errors import QueryError
from lazycache.query.attending.attention_maps import AttentionMap
from lazycache.query.attending.attributed import Attribution
from lazycache.samples import pattern_cache, small_cache

EVIL = "<script>x</script>"
BY = f"CASE WHEN example < 2 THEN '{EVIL}' ELSE '\"<i>' END"


@pytest.fixture
def cache():
    """Six rows of one site of two units."""
    with small_cache() as found:
        yield found


def plain(html):
    """What a reader sees, one space for each tag."""
    return re.sub(" +", " ", re.sub("<[^>]+>", " ", html)).strip()


def faces(cache):
    """One of each value whose face tells something of a dataset, with evil names and texts."""
    x = cache["resid_out_0"]
    groups = x.group_by(BY)
    difference = cache.diff(cache, "resid_out_0", by=BY)
    difference.summary  # noqa: B018  # worked out once, then shown
    attended = AttentionMap(
        torch.ones(2, 1, 1),
        site=EVIL,
        example=0,
        head=None,
        keys=[EVIL],
        queries=[EVIL],
        positions=np.arange(1),
    )
    parts = Attribution([EVIL], [1.0], total=2.0, site=EVIL, example=0, position=1)
    report = Report("u", 1, (Problem(EVIL),), 0)
    rows = cache.sql(f"SELECT '{EVIL}' AS \"{EVIL}\"")
    plan = cache.explain(f"SELECT '{EVIL}' AS t FROM tokens")
    bins = cache.quantile_samples("resid_out_0", 0, 2, 1)
    hits = cache.top_k("resid_out_0", 0, k=2)
    hits.tokens[:] = [EVIL, None]
    shown = [attended, parts, report, rows, plan, bins, hits, groups, groups.mean(), difference]
    shown += [groups.count(), x.statistics(), x.histogram(3), x[..., 0].topk(2), x.topk(2)]
    return [*shown, x, cache.stack(["resid_out_0"]), x.loader(2), cache.cost(x)]


def test_no_face_runs_or_opens_anything(cache):
    """Every value whose face may hold text of a dataset shows it as text."""
    for value in faces(cache):
        html = value._repr_html_()
        assert not re.search("<(script|i|img|a|link)\\b", html), type(value)
        assert "http" not in html.replace("http://www.w3.org/2000/svg", ""), type(value)
        assert type(value).__name__ in plain(html)


def test_lazy_tensors_say_shape_dtype_bytes_and_place_and_read_nothing(cache):
    """The face of a notebook says what `repr` says."""
    x = cache["resid_out_0"]
    url = cache.datasets[0].url
    said = f"LazyTensor resid_out_0 shape (3, ≤3, 2) · dtype float32 · bytes 48 B · in {url}"
    assert plain(x._repr_html_()) == said
    assert plain(x[1].to("meta")._repr_html_()).startswith(
        "LazyTensor resid_out_0 shape (3, 2) · dtype float32 · device meta · bytes 24 B"
    )
    assert "LazyStack 1 layers, resid_out_0 each" in plain(cache.stack("*")._repr_html_())
    assert cache.io.requests == 0
    pattern = pattern_cache()["pattern_0"]
    assert "≤3, keys) · dtype" in plain(pattern._repr_html_())


def test_a_result_asks_for_its_first_rows_and_never_twice_for_few(cache):
    """Of many rows 21 are read; where that is all, later readings are of the same rows."""
    many = cache.sql("SELECT row FROM range(50) AS t(row) ORDER BY row")
    shown = plain(many._repr_html_())
    assert shown.startswith("Result the first 20 rows row 0 1 2")
    assert shown.endswith(" 18 19")
    assert len(many.fetchall()) == 50
    assert plain(many._repr_html_()) == shown
    few = cache.sql("SELECT resid_out_0, NULL::VARCHAR AS token FROM tokens")
    assert "Result 6 rows resid_out_0 token [0, 1] NULL [2" in plain(few._repr_html_())
    read = cache.io.requests
    assert read > 0
    assert len(few.fetchall()) == 6
    few._repr_html_()
    assert cache.io.requests == read
    few.close()
    assert "closed" in few._repr_html_()


def test_a_wide_result_reads_the_columns_that_are_shown(cache):
    """Of forty columns sixteen are shown, whatever their names; the others are not read."""
    columns = ", ".join(["1 AS a"] * 16 + ["error('read') AS b"] * 24)
    wide = cache.sql(f"SELECT {columns}")
    assert plain(wide._repr_html_()).endswith("... and more columns 24")
    with pytest.raises(QueryError, match="read"):
        wide.fetchall()


def test_a_query_that_fails_says_so_in_its_place(cache):
    """A notebook shows the error, not a traceback; asking for rows raises it."""
    result = cache.sql("SELECT error('no such thing')")
    assert plain(result._repr_html_()).endswith("no such thing")
    with pytest.raises(QueryError, match="no such thing"):
        result.fetchall()


def test_a_histogram_says_what_is_in_no_bin():
    """Text has the bars in one line; of several units the first are drawn."""
    none, one = torch.tensor(0), torch.tensor(1)
    edges = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    found = Histogram(torch.tensor([1, 3]), edges, none, one, one, none, none)
    assert repr(found) == "Histogram(2 bins from 0 to 2: 4 values, 1 above, 1 nan)\n  ▃█"
    assert "values 4 · bins 2 · above 1 · nan 1" in plain(found._repr_html_())
    six = (torch.tensor([0] * 6) for _ in range(5))
    wide = Histogram(torch.ones(6, 2, dtype=torch.int64), edges.expand(6, 3), *six)
    assert repr(wide) == "Histogram([6] units, 2 bins from 0 to 2: 12 values)"
    assert wide._repr_html_().count("<svg") == 4
    assert "... and more units 2" in plain(wide._repr_html_())


def test_bins_of_quantiles_are_a_list_that_shows_itself(cache):
    """It is a list as ever; each bin says its edges and count."""
    bins = cache.quantile_samples("resid_out_0", 0, 2, 1)
    assert isinstance(bins, list)
    assert "QuantileBins 2 bins from to rows 0 5 3 5 10 3" in plain(bins._repr_html_())
    low, high, hits = bins[0]
    assert (low, high, len(hits)) == (0.0, 5.0, 1)
