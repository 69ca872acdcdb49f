"""Questions asked of SmolLM2 over real text, beside plain torch over the values as they are stored.

Layer 29 holds massive activations: sums and products that lose digits show here.
"""

import numpy as np
import pytest
import torch

import lazycache as lc
from lazycache.views.corpus import python_documentation

SITES = ["embed", "resid_out_{1,29}", "mlp_act_29", "pattern_1", "attn_out_{0,1}", "mlp_out_{0,1}"]
UNIT = 412

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(smollm2, tmp_path_factory):
    """Paragraphs of the language reference, each with its topic."""
    model, tokenizer = smollm2
    tokenizer.pad_token = tokenizer.eos_token
    url = tmp_path_factory.mktemp("asked") / "acts"
    data = python_documentation(2500)
    options = {"tokenizer": tokenizer, "max_length": 64, "batch_size": 8, "progress": False}
    return lc.extract(model, data, url, SITES, **options)


@pytest.fixture(scope="module")
def table(cache):
    """The index of all rows, in order: a pandas frame."""
    query = (
        "SELECT t.row, example, position, token, topic FROM tokens t JOIN examples e "
        "USING (run, example) ORDER BY t.row"
    )
    return cache.sql(query).df()


def rows_of(cache, site):
    """All rows of a site in float64."""
    return cache[site].rows.load().double()


def chosen(table, mask):
    """Row numbers of a mask."""
    return torch.from_numpy(np.flatnonzero(np.asarray(mask)))


def test_the_best_rows_are_those_of_sorting(cache, table):
    """By unit, direction and score; of all rows, of a condition, of each example; in SQL too."""
    x = rows_of(cache, "mlp_act_29")
    for unit, largest in ((UNIT, True), (7, False)):
        order = x[:, unit].sort(descending=largest, stable=True)
        hits = cache.top_k("mlp_act_29", unit, k=50, largest=largest)
        assert hits.rows.tolist() == order.indices[:50].tolist()
        assert torch.equal(hits.values.double(), order.values[:50])
        assert list(hits.tokens) == table.token[hits.rows].tolist()
    some = chosen(table, (table.position > 2) & table.token.str.contains("e"))
    hits = cache.top_k("mlp_act_29", UNIT, k=9, where="position > 2 AND contains(token, 'e')")
    order = x[some, UNIT].sort(descending=True, stable=True).indices[:9]
    assert hits.rows.tolist() == some[order].tolist()
    once = cache.top_k("mlp_act_29", UNIT, k=5, per_example=True)
    best = table.assign(v=x[:, UNIT].numpy()).sort_values(["v", "row"], ascending=[False, True])
    assert once.rows.tolist() == best.drop_duplicates("example").row[:5].tolist()
    stream = rows_of(cache, "resid_out_29")
    along = cache.top_k("resid_out_29", direction=stream[11], k=4)
    products = (stream @ stream[11]).sort(descending=True, stable=True)
    assert along.rows.tolist() == products.indices[:4].tolist()
    torch.testing.assert_close(along.values.double(), products.values[:4], rtol=1e-5, atol=0)
    text = f"SELECT row FROM tokens ORDER BY unit(mlp_act_29, {UNIT}) DESC LIMIT 7"
    values = x[[row for (row,) in cache.sql(text).fetchall()], UNIT]
    assert torch.equal(values, x[:, UNIT].sort(descending=True).values[:7])


def test_the_nearest_rows_are_those_of_float64(cache, table):
    """By cosine, distance and product, of one vector and of several, whole and of some units."""
    x = rows_of(cache, "resid_out_1")
    some = chosen(table, table.position > 0)
    y = x[some]
    for row in (3, 200):
        to = x[row]
        wanted = {
            "cosine": torch.cosine_similarity(y, to[None]),
            "l2": torch.linalg.vector_norm(y - to, dim=1),
            "dot": y @ to,
        }
        for metric, scores in wanted.items():
            hits = cache.similar("resid_out_1", to, 10, metric, where="position > 0")
            order = scores.sort(descending=metric != "l2", stable=True)
            assert hits.rows.tolist() == some[order.indices[:10]].tolist(), metric
            best = order.values[:10]
            torch.testing.assert_close(hits.values.double(), best, rtol=1e-5, atol=1e-5)
    units = [0, 5, 400]
    several = cache.similar("resid_out_1", x[:3, units], 4, units=units)
    scores = torch.cosine_similarity(x[None, :, units], x[:3, None, units], dim=2)
    found = scores.gather(1, torch.stack([torch.from_numpy(one.rows) for one in several]))
    torch.testing.assert_close(found, scores.sort(descending=True).values[:, :4])


def test_how_values_are_distributed(cache, table):
    """Counts, quantiles, bins and firing rates are numpy's and torch's, of all rows and of some."""
    x = rows_of(cache, "mlp_act_29")
    some = chosen(table, table.position >= 4)
    found = cache.histogram("mlp_act_29", 30, unit=UNIT, where="position >= 4")
    counts, edges = np.histogram(x[some, UNIT].numpy(), 30)
    assert found.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(found.edges.numpy(), edges, rtol=1e-12)
    assert int(cache.histogram("mlp_act_29", 9).counts.sum()) == x.numel()
    q = [0.0, 0.01, 0.5, 0.999]
    wanted = torch.from_numpy(np.quantile(x[some].numpy(), q, axis=0))
    found = cache.quantiles("mlp_act_29", q, where="position >= 4")
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)
    for threshold in (0.0, 0.1):
        rates = cache.firing_rates("mlp_act_29", threshold, where="position >= 4")
        torch.testing.assert_close(rates, (x[some] > threshold).double().mean(0))
    bins = cache.quantile_samples("mlp_act_29", UNIT, 5, n=3, where="position >= 4")
    assert sum(one.count for one in bins) == len(some)
    for low, high, hits in bins:
        assert len(hits) == 3
        assert set(hits.rows.tolist()) <= set(some.tolist())
        values = x[hits.rows, UNIT]
        assert torch.equal(values, hits.values.double())
        assert bool(((values >= low) & (values <= high)).all())


def test_units_and_what_is_said_of_rows(cache, table):
    """Means of groups are pandas', correlations numpy's, and a probe reads off what is there."""
    x = rows_of(cache, "resid_out_29")
    some = chosen(table, table.position > 0)
    means = cache.group_mean("resid_out_29", "topic", where="position > 0")
    topics = table.topic[some.numpy()].reset_index(drop=True)
    for topic in set(topics):
        wanted = x[some][chosen(topics, topics == topic)].mean(0)
        torch.testing.assert_close(means[topic], wanted, rtol=1e-9, atol=1e-9)
    r = cache.correlate("resid_out_29", "position", where="position > 0")
    wanted = np.corrcoef(x[some].numpy().T, table.position[some.numpy()])[-1, :-1]
    np.testing.assert_allclose(r.numpy(), wanted, rtol=1e-7, atol=1e-10)
    probe = cache.probe("resid_out_1", "position = 0", test=0.3)
    assert probe.test.score == 1.0 > probe.test.baseline
    ridge = cache.probe("resid_out_1", "position", kind="ridge", l2=0.1, test=0)
    y = rows_of(cache, "resid_out_1")
    z = (y - y.mean(0)) / y.std(0, correction=0)
    target = torch.tensor(table.position.to_numpy(), dtype=torch.float64)
    system = z.T @ z / len(z) + 0.1 * torch.eye(z.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(system, z.T @ (target - target.mean()) / len(z))
    torch.testing.assert_close(
        ridge.weights, weights / y.std(0, correction=0), rtol=1e-6, atol=1e-8
    )


def test_layers_and_how_they_differ(cache, table):
    """The change from a layer to another, and their CKA, are those of the loaded rows."""
    a, b = rows_of(cache, "resid_out_1"), rows_of(cache, "resid_out_29")
    change = cache.diff(cache, "resid_out_1", other_site="resid_out_29", by="topic")
    norms = torch.linalg.vector_norm((b - a).float().double(), dim=1)
    torch.testing.assert_close(change.norms.rows.load(), norms)
    assert change.summary.mean_norm == pytest.approx(float(norms.mean()))
    of_topic = dict(zip(*map(change.summary.groups.column, ["topic", "mean_norm"]), strict=True))
    for topic, norm in of_topic.items():
        mine = norms[chosen(table, table.topic == topic.as_py())]
        assert norm.as_py() == pytest.approx(float(mine.mean()))
    best = norms.sort(descending=True, stable=True).indices[:5]
    assert change.top_k(5).rows.tolist() == best.tolist()
    a, b = a - a.mean(0), b - b.mean(0)
    cka = (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert cache.similarity("resid_out_1", "resid_out_29") == pytest.approx(float(cka), rel=1e-9)


def test_what_attends_and_what_writes(cache, table):
    """Attention is the stored pattern, its mean that over queries, and parts sum to the stream."""
    example = int(table.example.max())
    mine = table[table.example == example]
    seen = cache.attention(example, "pattern_1")
    assert list(seen.tokens) == mine.token.tolist()
    assert torch.equal(seen.values, cache["pattern_1"][example].load())
    total, queries = torch.zeros(9, dtype=torch.float64), 0
    for number, part in table.groupby("example"):
        values = cache["pattern_1"][int(number)].load().double()
        ask = chosen(part, part.position > 0)
        keys = chosen(part, part.token.str.contains(","))
        total += values[:, ask][:, :, keys].sum((1, 2))
        queries += len(ask)
    found = cache.mean_attention("pattern_1", "contains(token, ',')", where="position > 0")
    torch.testing.assert_close(found, total / queries, rtol=1e-9, atol=1e-12)
    stream = rows_of(cache, "resid_out_1")
    toward = stream[7]
    parts = cache.attribute(example, 3, toward, at="resid_out_1")
    row = int(mine.row[mine.position == 3].iloc[0])
    assert len(parts.names) == 1 + 2 * 2 + 1
    for name, value in zip(parts.names[:-1], parts.values.tolist(), strict=False):
        assert value == pytest.approx(float(rows_of(cache, name)[row] @ toward), rel=1e-9, abs=1e-9)
    assert parts.total == pytest.approx(float(stream[row] @ toward))
    assert float(parts.values.sum()) == pytest.approx(parts.total)


def test_sql_measures_are_those_of_torch(cache):
    """dot, norm and cosine of every row with a vector of the dataset."""
    x = rows_of(cache, "resid_out_29")
    query = (
        "SELECT dot(resid_out_29, $v), norm(resid_out_29), cosine(resid_out_29, $v) FROM tokens "
        "ORDER BY row"
    )
    found = torch.tensor(cache.sql(query, {"v": x[5]}).fetchall(), dtype=torch.float64)
    wanted = [x @ x[5], torch.linalg.vector_norm(x, dim=1), torch.cosine_similarity(x, x[5][None])]
    torch.testing.assert_close(found, torch.stack(wanted, 1), rtol=1e-5, atol=1e-5)
