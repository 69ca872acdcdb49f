"""A capturing process that is killed loses what was not committed, and nothing else."""

import functools

import pytest
import torch
from faults.capture_crasher import BATCH, make_batch, make_model

import lazycache as lc


@pytest.fixture(scope="module")
def killed(tmp_path_factory, request, crashers):
    """Folders of captures, each killed with SIGKILL at a random moment."""
    folder = tmp_path_factory.mktemp("killed")
    kills = 50 if request.config.getoption("--long") else 25
    crashers.run("capture_crasher", folder, kills, 7, timeout=200)
    return [folder / f"run{kill}" for kill in range(kills)]


def expected_rows(model, batch):
    """What independent hooks see of the kept rows."""
    seen = {}
    layers = {f"resid_out_{i}": layer for i, layer in enumerate(model.h)}
    handles = [
        layer.register_forward_hook(
            lambda _m, _a, out, name=name: seen.update(
                {name: out[0] if isinstance(out, tuple) else out}
            )
        )
        for name, layer in layers.items()
    ]
    handles.append(
        model.h[0].register_forward_pre_hook(lambda _m, args: seen.update(embed=args[0]))
    )
    handles.append(
        model.h[1].mlp.c_proj.register_forward_pre_hook(
            lambda _m, args: seen.update(mlp_act_1=args[0])
        )
    )
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    keep = batch["attention_mask"].bool()
    return {name: value[keep] for name, value in seen.items()}


def check(url, wanted, limit):
    """Compare every committed row (of the first and last `limit` batches) with a fresh forward."""
    cache = lc.open(url, check=True)
    if not cache.snapshot.commits:
        return 0
    batches, rest = divmod(cache.snapshot.rows("examples"), BATCH)
    assert rest == 0, "a part of a batch is visible"
    stored = {name: x.rows.load() for name, x in cache.items()}
    tokens = cache.sql("SELECT token_id FROM tokens ORDER BY row").fetchall()
    assert {len(rows) for rows in stored.values()} == {len(tokens)}
    for name, x in cache.items():  # from the statistics of what was committed
        torch.testing.assert_close(x.mean("rows"), stored[name].double().mean(0), rtol=1e-9, atol=0)
    start = 0
    for number in range(batches):
        batch = make_batch(number)
        kept = int(batch["attention_mask"].sum())
        if number < limit or number >= batches - limit:
            ids = batch["input_ids"][batch["attention_mask"].bool()].tolist()
            assert [t for (t,) in tokens[start : start + kept]] == ids
            for name, rows in wanted(number).items():
                assert torch.equal(stored[name][start : start + kept], rows), (number, name)
        start += kept
    assert start == len(tokens)
    return batches


@pytest.mark.slow
def test_kill_9_at_random_moments_leaves_whole_exact_commits(killed, figures):
    """After SIGKILL at random moments each dataset opens and holds whole, exact batches."""
    model = make_model()
    # of a batch that several captures have, once
    wanted = functools.cache(lambda number: expected_rows(model, make_batch(number)))
    counts = []
    for url in killed:
        try:
            counts.append(check(url, wanted, limit=12))
        except lc.DatasetNotFoundError:  # killed before the dataset was created
            counts.append(0)
    assert sum(count > 0 for count in counts) >= len(killed) // 3, counts
    figures.add("captures killed", len(killed))


@pytest.mark.slow
def test_a_killed_capture_can_be_continued(killed):
    """A capture resumes in the folder of a killed one; the committed rows stay as they were."""
    url = next(url for url in killed if len(list(url.glob("_log/*.json"))) > 1)
    before = lc.open(url)
    rows = {name: x.rows.load() for name, x in before.items()}
    model = make_model()
    with torch.no_grad(), lc.capture(model, url, list(rows), resume=True) as run:
        run.annotate(batch=[0] * BATCH)
        model(**make_batch(0))
    after = lc.open(url)
    assert after.snapshot.rows("examples") == before.snapshot.rows("examples") + BATCH
    for name, x in after.items():
        assert torch.equal(x.rows[: len(rows[name])].load(), rows[name])
