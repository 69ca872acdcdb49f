"""SmolLM2-135M in bfloat16: what is stored is what a fresh forward pass gives, bit for bit."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

import lazycache as lc
from lazycache.views.corpus import python_documentation

LAYERS = 30
SITES = ["resid_out_*", "mlp_act_*"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def batches(smollm2):
    """Two padded batches of real text."""
    _, tokenizer = smollm2
    tokenizer.pad_token = tokenizer.eos_token
    texts = [example["text"] for example in python_documentation(6000)]
    options = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": 96}
    return [tokenizer(texts[i : i + 6], **options) for i in (0, 6)]


@pytest.fixture(scope="module")
def dataset(smollm2, batches, tmp_path_factory):
    """A capture of every layer's residual stream and neurons."""
    model, tokenizer = smollm2
    url = tmp_path_factory.mktemp("smollm2") / "acts"
    with torch.no_grad(), lc.capture(model, url, SITES, tokenizer=tokenizer):
        for batch in batches:
            model(**batch)
    assert lc.open(url).snapshot.version == 1
    return url


def expected(model, batch):
    """What independent hooks see, kept rows only."""
    seen = {}

    def remember(name):
        def hook(_module, args, output=None):
            value = args[0] if output is None else output
            seen[name] = value[0] if isinstance(value, tuple) else value

        return hook

    handles = []
    for i, layer in enumerate(model.model.layers):
        handles.append(layer.register_forward_hook(remember(f"resid_out_{i}")))
        down = layer.mlp.down_proj
        handles.append(down.register_forward_pre_hook(remember(f"mlp_act_{i}")))
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    keep = batch["attention_mask"].bool()
    return {name: value[keep] for name, value in seen.items()}


def test_every_stored_row_equals_a_fresh_forward_pass(smollm2, batches, dataset):
    """All 60 sites, all rows, equal bit for bit to what plain hooks see; padding is not there."""
    cache = lc.open(dataset)
    assert len(cache) == 2 * LAYERS
    start = 0
    for batch in batches:
        wanted = expected(smollm2[0], batch)
        stop = start + int(batch["attention_mask"].sum())
        for name, rows in wanted.items():
            stored = cache[name].rows[start:stop].load()
            assert stored.dtype == torch.bfloat16
            assert torch.equal(stored, rows), name
        start = stop
    assert start == cache.snapshot.rows("tokens") == len(cache["resid_out_0"].rows)


def test_another_process_reads_the_same_without_transformers(smollm2, batches, dataset):
    """A process that never imports a model library opens the dataset and reads equal values."""
    code = f"""
        import json, sys, torch, lazycache as lc
        x = lc.open({str(dataset)!r})["mlp_act_29"]
        assert "transformers" not in sys.modules
        print(json.dumps([x.shape, x[3].load().view(torch.int16).tolist()]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shape, values = json.loads(done.stdout)
    first = batches[0]
    before = int(first["attention_mask"][:3].sum())
    own = int(first["attention_mask"][3].sum())
    wanted = expected(smollm2[0], first)["mlp_act_29"][before : before + own]
    assert values == wanted.view(torch.int16).tolist()
    assert shape[0] == 12
    assert shape[2] == 1536


def test_the_residual_identities_hold_to_rounding(smollm2, tmp_path):
    """resid_in + attn_out = resid_mid and resid_mid + mlp_out = resid_out, in every layer."""
    model, tokenizer = smollm2
    sites = ["resid_in_*", "attn_out_*", "resid_mid_*", "mlp_out_*", "resid_out_*"]
    with torch.no_grad(), lc.capture(model, tmp_path / "a", sites):
        model(**tokenizer("The capital of France is Paris.", return_tensors="pt"))
    cache = lc.open(tmp_path / "a")
    for layer in range(LAYERS):
        at = {kind[:-2]: cache[f"{kind[:-1]}{layer}"].rows.load() for kind in sites}
        assert torch.equal(at["resid_in"] + at["attn_out"], at["resid_mid"])
        assert torch.equal(at["resid_mid"] + at["mlp_out"], at["resid_out"])


def test_tokens_and_activations_are_aligned(smollm2, dataset):
    """SQL finds the token text of a row, and the row's activation is that token's."""
    cache = lc.open(dataset)
    query = "SELECT row, token, unit(mlp_act_3, 412) AS a FROM tokens ORDER BY a DESC LIMIT 5"
    values = cache["mlp_act_3"].rows[:, 412].load().float()
    top = values.topk(5)
    found = cache.sql(query).fetchall()
    assert [a for _, _, a in found] == top.values.tolist()
    tokenizer = smollm2[1]
    ids = dict(cache.sql("SELECT row, token_id FROM tokens").fetchall())
    for row, token, _ in found:
        assert tokenizer.decode([ids[row]]) == token


def test_who_wrote_the_answer_and_what_was_looked_at(smollm2, tmp_path):
    """Parts of 30 layers add up but for the rounding of each sum; attention is the model's own."""
    model, tokenizer = smollm2
    sites = ["embed", "resid_*", "attn_out_*", "mlp_out_*", "pattern_*", "logits"]
    batch = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad(), lc.capture(model, tmp_path / "a", sites, tokenizer=tokenizer):
        model(**batch)
    cache = lc.open(tmp_path / "a")
    token = int(cache["logits"][0, -1].load().argmax())
    assert tokenizer.decode([token]) == " Paris"
    toward = (model.lm_head.weight[token] * model.model.norm.weight).detach().double()
    found = cache.attribute(0, -1, toward)
    assert len(found.names) == 1 + 2 * LAYERS + 1
    at = {name: cache[name][0, -1].load().double() for name in cache if "pattern" not in name}
    lost = torch.zeros_like(toward)
    for n in range(LAYERS):
        lost += at[f"resid_mid_{n}"] - at[f"resid_in_{n}"] - at[f"attn_out_{n}"]
        lost += at[f"resid_out_{n}"] - at[f"resid_mid_{n}"] - at[f"mlp_out_{n}"]
    assert found.remainder == pytest.approx(float(lost @ toward), rel=1e-9, abs=1e-9)
    assert found.total == pytest.approx(float(at["resid_out_29"] @ toward), rel=1e-12)
    eps = model.config.rms_norm_eps
    logit = cache.attribute(0, -1, toward, scale="rms", eps=eps).total
    assert logit == pytest.approx(float(at["logits"][token]), rel=0.02)  # both are rounded
    first = cache.mean_attention("pattern_*", "position = 0")
    for n in (0, LAYERS - 1):
        seen = cache.attention(0, n)
        assert "".join(seen.tokens) == "The capital of France is"
        assert torch.allclose(first[n], seen.values[:, :, 0].double().mean(1), rtol=1e-12)
    assert first[:2].mean() < first[10:20].mean(), "deep layers rest on the first token"
