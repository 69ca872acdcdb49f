"""Which parts wrote a direction: products that add up to that of the stream."""

import math

import pytest
import torch
from dataset_helpers import gpt2
from top_helpers import corpus
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import lazycache as lc
from lazycache.errors import QueryError, SiteNotFoundError

INPUTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3]]
SITES = ["embed", "resid_*", "attn_out_*", "mlp_out_*", "head_out_*", "logits"]
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def _biased(model):
    """The model in float64, with biases that are not 0."""
    made = model.double()
    for name, values in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values)
    return made.requires_grad_(requires_grad=False)


def _llama():
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, attention_bias=True)
    return _biased(LlamaForCausalLM(config).eval())


MODELS = {"gpt2": lambda: _biased(gpt2(n_layer=3)), "llama": _llama}


@pytest.fixture(scope="module", params=MODELS)
def captured(request, tmp_path_factory):
    """A small pre-norm model in float64, and all parts of its stream."""
    model = MODELS[request.param]()
    url = tmp_path_factory.mktemp("attribution") / "acts"
    return model, lc.extract(model, INPUTS, url, SITES, progress=False)


def direction(width=16, seed=0):
    """A vector by chance."""
    return torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_parts_add_up_to_the_stream_in_float64(captured):
    """Every part is its own product, and nothing is left but rounding, at any place of a layer."""
    _, cache = captured
    toward = direction()
    for example, ids in enumerate(INPUTS):
        for position in range(len(ids)):
            found = cache.attribute(example, position, toward)
            assert found.names[:3] == ("embed", "attn_out_0", "mlp_out_0")
            assert found.names[-2:] == ("mlp_out_2", "remainder")
            for name, value in zip(found.names[:-1], found.values.tolist(), strict=False):
                wanted = cache[name][example, position].load() @ toward
                assert value == pytest.approx(float(wanted), rel=1e-13, abs=1e-14)
            whole = cache["resid_out_2"][example, position].load() @ toward
            assert found.total == pytest.approx(float(whole), rel=1e-13, abs=1e-14)
            assert abs(found.remainder) < 1e-14
            assert math.fsum(found.values.tolist()) == pytest.approx(found.total, rel=1e-15)
    for site, last in {"resid_mid_1": "attn_out_1", "resid_in_1": "mlp_out_0"}.items():
        found = cache.attribute(0, -2, toward, at=site)
        assert (found.site, found.names[-2], found.position) == (site, last, 3)
        assert abs(found.remainder) < 1e-14
        assert found.total == pytest.approx(float(cache[site][0, 3].load() @ toward), rel=1e-13)


def test_heads_and_the_bias_that_they_leave_add_up(captured):
    """Each head is its row of head_out; `attn_out (rest)` is the bias of the projection."""
    model, cache = captured
    toward = direction(seed=1)
    found = cache.attribute(2, 1, toward, heads=True)
    by_name = dict(zip(found.names, found.values.tolist(), strict=True))
    heads = cache["head_out_1"].shape[2]
    for head in range(heads):
        wanted = float(cache[f"head_out_L1H{head}"][2, 1].load() @ toward)
        assert by_name[f"head_out_L1H{head}"] == pytest.approx(wanted, rel=1e-12)
    layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    block = layers[1].attn.c_proj if hasattr(model, "transformer") else layers[1].self_attn.o_proj
    assert by_name["attn_out_1 (rest)"] == pytest.approx(float(block.bias @ toward), abs=1e-13)
    assert len(found.names) == 1 + 3 * (heads + 2) + 1
    assert abs(found.remainder) < 1e-14


def test_through_the_last_norm_it_is_the_logit(captured):
    """With the norm's weight in the direction and its scale, the total is the logit of a token."""
    model, cache = captured
    token = 7
    unembedding = model.lm_head.weight[token]
    if hasattr(model, "transformer"):
        norm = model.transformer.ln_f
        toward, scale, eps = unembedding * norm.weight, "layer", norm.eps
        bias = float(unembedding @ norm.bias)
    else:
        norm = model.model.norm
        toward, scale, eps, bias = unembedding * norm.weight, "rms", norm.variance_epsilon, 0.0
    found = cache.attribute(0, 4, toward, scale=scale, eps=eps)
    # Llama's own norm computes in float32
    exact = {"layer": 1e-12, "rms": 1e-6}[scale]
    logit = float(cache["logits"][0, 4, token].load())
    assert found.total + bias == pytest.approx(logit, rel=exact)
    assert math.fsum(found.values.tolist()) == pytest.approx(found.total, rel=1e-12)
    assert abs(found.remainder) < 1e-14
    plain = cache.attribute(0, 4, toward)
    halved = cache.attribute(0, 4, toward, scale=2)
    assert torch.allclose(halved.values[:-1] * 2, plain.values[:-1])


def test_what_is_not_stored_is_the_remainder(tmp_path):
    """Of layer 1 nothing was captured: its two parts are what is left."""
    model = gpt2(n_layer=2).double()
    cache = lc.extract(model, INPUTS, tmp_path / "a", SITES, progress=False)
    some = ["resid_in_0", "resid_out_1", "attn_out_0", "mlp_out_0"]
    less = lc.extract(model, INPUTS, tmp_path / "b", some, progress=False)
    toward = direction()
    whole, part = (one.attribute(1, 1, toward) for one in (cache, less))
    assert part.names == ("resid_in_0", "attn_out_0", "mlp_out_0", "remainder")
    assert torch.allclose(part.values[:3], whole.values[:3])
    assert part.remainder == pytest.approx(float(whole.values[3:5].sum()))
    assert part.total == pytest.approx(whole.total)


def test_infinities_are_told_as_they_are():
    """Parts that are infinite, of one sign or of both, leave a remainder that is not a number."""
    embed, added = torch.ones(3, 2), torch.ones(3, 2)
    embed[:2, 0], added[1, 0] = math.inf, -math.inf
    sites = {"embed": embed, "mlp_out_0": added, "resid_out_0": embed + added}
    cache = corpus(sites, [3])
    for position, said in enumerate([[math.inf, 2.0], [math.inf, -math.inf], [2.0, 2.0]]):
        parts = cache.attribute(0, position, [1.0, 1.0])
        assert parts.values[:2].tolist() == said
        assert math.isnan(parts.remainder) == (position < 2)
        assert "remainder" in repr(parts)


def test_named_components_are_taken_as_they_are(captured):
    """Names and patterns choose; what they leave is the remainder; a direction may be lazy."""
    _, cache = captured
    found = cache.attribute(0, 0, cache["embed"][0, 0], components=["mlp_out_{0,2}", "embed"])
    assert found.names == ("mlp_out_0", "mlp_out_2", "embed", "remainder")
    embed = cache["embed"][0, 0].load()
    assert found.values[2] == pytest.approx(float(embed @ embed))
    assert found.remainder == pytest.approx(found.total - float(found.values[:3].sum()))
    listed = cache.attribute(0, 0, embed.tolist(), components="embed")
    assert listed.values[0] == found.values[2]


def test_a_table_and_a_text_with_the_largest_first(captured):
    """`df()` is in the order of the parts; the text in that of their sizes."""
    _, cache = captured
    found = cache.attribute(0, 2, direction())
    table = found.df()
    assert table["component"].tolist() == list(found.names)
    assert table["value"].tolist() == found.values.tolist()
    lines = repr(found).splitlines()
    assert lines[0].startswith("Attribution(resid_out_2, example 0, position 2: ")
    sizes = [abs(float(line.split()[-1])) for line in lines[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == len(found.names)


def test_models_that_normalise_what_was_added_are_refused(tmp_path):
    """BERT's layers do not add up, nor do the heads of Gemma 2, and this is said."""
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**SIZES)).eval()
    cache = lc.extract(bert, INPUTS, tmp_path / "bert", ["embed", "*_out_*"], progress=False)
    with pytest.raises(QueryError, match=r"bert models normalise the stream .* does not add up"):
        cache.attribute(0, 0, torch.ones(16))
    asked = cache.attribute(0, 0, torch.ones(16), components=["embed", "mlp_out_*"])
    assert asked.values.sum() == pytest.approx(asked.total, abs=1e-12)
    config = Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=4)
    gemma = Gemma2ForCausalLM(config).eval().double()
    cache = lc.extract(gemma, INPUTS, tmp_path / "gemma", SITES, progress=False)
    assert abs(cache.attribute(0, 3, direction()).remainder) < 1e-13
    with pytest.raises(QueryError, match="single heads do not add up"):
        cache.attribute(0, 0, direction(), heads=True)


def test_only_the_row_of_the_example_is_read(captured):
    """A question costs a row of each part, however large the dataset is."""
    _, cache = captured
    cache.io.reset()
    found = cache.attribute(0, 0, direction())
    assert cache.io.bytes == len(found.names) * 16 * 8


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda c: c.attribute(0, 9, direction()), QueryError, "has the positions 0, 1, 2, 3, 4"),
        (lambda c: c.attribute(1, -3, direction()), QueryError, "has the positions 0, 1"),
        (lambda c: c.attribute(7, 0, direction()), QueryError, "positions none"),
        (lambda c: c.attribute(0, None, direction()), QueryError, "say which position"),
        (lambda c: c.attribute("a", 0, direction()), QueryError, "by its id"),
        (lambda c: c.attribute(0, 0, direction(3)), QueryError, r"shape \[3\].*has \[16\]"),
        (lambda c: c.attribute(0, 0, ("logits", 3)), QueryError, "not stored"),
        (lambda c: c.attribute(0, 0, direction(), at="mlp_out_1"), QueryError, "not the residual"),
        (lambda c: c.attribute(0, 0, direction(), at="resid_ot_1"), SiteNotFoundError, "resid_out"),
        (
            lambda c: c.attribute(0, 0, direction(), components=["mlp_ot_1"]),
            SiteNotFoundError,
            "Nearest: mlp_out_1",
        ),
        (lambda c: c.attribute(0, 0, direction(), scale="norm"), QueryError, "scale='norm'"),
        (lambda c: c.attribute(0, 0, direction(), scale=0), QueryError, "scale=0"),
    ],
    ids=[
        "position", "from the end", "example", "no position", "id", "width", "logits", "no stream",
        "site", "component", "scale", "scale of 0",
    ],
)  # fmt: skip
def test_what_cannot_be_asked_says_what_can(captured, ask, error, said):
    """Names what was asked, what there is and what to do."""
    with pytest.raises(error, match=said):
        ask(captured[1])


def test_what_is_missing_says_what_to_capture(tmp_path):
    """Without a stream, or without heads, the error names the sites to capture."""
    model = gpt2()
    cache = lc.extract(model, INPUTS, tmp_path / "a", "mlp_out_*", progress=False)
    with pytest.raises(QueryError, match="capture resid_out_L, with embed"):
        cache.attribute(0, 0, direction())
    cache = lc.extract(model, INPUTS, tmp_path / "b", "resid_out_*", progress=False)
    with pytest.raises(QueryError, match=r"capture head_out_\* too"):
        cache.attribute(0, 0, direction(), heads=True)
    with pytest.raises(QueryError, match="asks one dataset, and 0"):
        lc.ActivationCache().attribute(0, 0, direction())
