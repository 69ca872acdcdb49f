"""Every site of every family, captured and read back, against hooks set by hand."""

from functools import cache

import family_models as f
import pytest
import stack_helpers as h
import torch

import lazycache as lc
from lazycache.capture.sites.architectures import FAMILIES, locate
from lazycache.capture.sites.known_sites import known_sites
from lazycache.capture.sites.names import CANONICAL, parse_site
from lazycache.capture.sites.projection import bind_projection
from lazycache.capture.sites.site_info import available


@cache
def _model(name):
    return f.CASES[name].make()


@cache
def _by_hand(name):
    """What plain hooks see at the places that were read in the model's source, and patterns."""
    model, case = _model(name), f.CASES[name]
    inputs = case.inputs(model)
    _, seen = h.see(model, inputs, case.hands)
    if not any("pattern" in site for site in seen):
        for layer, pattern in enumerate(h.attentions(model, inputs).attentions):
            seen[f"pattern_{layer}"] = pattern
    return seen


@cache
def _captured(name):
    """The same forward pass captured: all sites, `head_out` too."""
    model = _model(name)
    url = f"memory://families/{name}"
    with lc.capture(model, url, "*", overwrite=True), torch.no_grad():
        model(**f.CASES[name].inputs(model))
    return lc.open(url)


def _kinds(name):
    """Kinds of site that the hand-written table of a model has, with their prefix."""
    sites = [parse_site(site) for site in f.CASES[name].hands]
    kinds = {site.prefix + site.kind for site in sites} | {
        f"{site.prefix}pattern" for site in sites if site.kind == "z"
    }
    return sorted(kinds, key=lambda kind: (CANONICAL.index(kind.rpartition(".")[2]), kind))


PAIRS = [(name, kind) for name in f.CASES for kind in _kinds(name)]


def _lengths(name, site):
    """Rows of each example at a site."""
    inputs = f.CASES[name].inputs(_model(name))
    if "attention_mask" not in inputs:
        return None
    mask = "attention_mask"
    if site.startswith("decoder.") or (site == "logits" and "decoder_attention_mask" in inputs):
        mask = "decoder_attention_mask"
    return inputs[mask].sum(1).tolist()


def _expected(name, site, seen):
    """Rows of each example as they should be stored: without padding."""
    lengths, keys = _lengths(name, site), _lengths(name, "encoder." + site)
    ragged = "pattern" in site
    if ragged:
        seen = seen.transpose(1, 2)  # [batch, queries, heads, keys]
        keys = lengths if "cross" not in site else keys
    else:
        lead = (f.BATCH, -1)
        flat = lengths is not None and seen.shape[0] == f.BATCH * max(lengths)
        seen = seen.reshape(*lead, *seen.shape[1 if flat else 2 :])
    rows = [seen[i, : None if lengths is None else lengths[i]] for i in range(f.BATCH)]
    if ragged:
        rows = [row[..., : None if keys is None else keys[i]] for i, row in enumerate(rows)]
        return [row.transpose(0, 1) for row in rows]  # a lazy tensor has [heads, queries, keys]
    return rows


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_site_of_every_family_is_stored_bit_for_bit(name, kind):
    """What is read back of each layer is what a hook set by hand sees, padding left out."""
    seen, stored = _by_hand(name), _captured(name)
    sites = [site for site in seen if site == kind or site.rpartition("_")[0] == kind]
    assert sites
    for site in sites:
        expected = _expected(name, site, seen[site])
        for example, rows in enumerate(expected):
            found = stored[site][example].load()
            assert found.dtype == rows.dtype
            assert torch.equal(found, rows), (site, example)


@pytest.mark.parametrize("name", f.CASES)
def test_nothing_else_is_stored_or_listed(name):
    """The sites of a model are those that were found in its source, and `head_out`."""
    seen, model = set(_by_hand(name)), _model(name)
    heads = {site.replace("z_", "head_out_") for site in seen if site.rpartition(".")[2][0] == "z"}
    assert set(known_sites(model).names) == seen | heads
    assert set(_captured(name)) == seen | heads
    assert {site.name for site in available(model)} == seen | heads


@pytest.mark.parametrize("name", f.CASES)
def test_listed_shapes_and_bytes_are_those_that_are_stored(name):
    """What `lc.sites` says before anything runs is what the dataset has."""
    stored = _captured(name)
    for site in available(_model(name)):
        spec = stored.sites.get(site.name)
        if site.name.rpartition(".")[2].startswith("head_out"):
            assert site.row_bytes == 0
            assert stored[site.name].shape[-2:] == site.shape
        else:
            assert (spec.shape, spec.dtype) == (site.shape, site.dtype), site.name
            assert spec.row_bytes == site.row_bytes, site.name
            assert spec.table == site.point.table, site.name


@pytest.mark.parametrize("name", f.CASES)
def test_head_out_read_back_adds_up_to_attn_out(name):
    """Summed over heads, with the bias, through the norm of a sandwich, it is `attn_out`."""
    model, stored = _model(name), _captured(name)
    for stack in locate(model):
        assert stack.family.projection is not None
        for layer in range(stack.layers):
            bias = model.get_submodule(bind_projection(stack, layer).path).bias
            prefix, norm = stack.family.prefix, stack.family.head_norm
            for example in range(f.BATCH):
                out = stored[f"{prefix}head_out_{layer}"][example].load().sum(1)
                out = out if bias is None else out + bias
                with torch.no_grad():
                    if norm is not None:
                        out = model.get_submodule(stack.path(norm, layer=layer))(out)
                torch.testing.assert_close(
                    out, stored[f"{prefix}attn_out_{layer}"][example].load(), rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize("name", f.CASES)
def test_heads_are_slices_and_patterns_mix_what_each_head_reads(name):
    """`pattern_LH @ values_LH` is `z_LH`: under grouped queries each head has its own kv head."""
    model, stored = _model(name), _captured(name)
    for stack in locate(model):
        prefix = stack.family.prefix
        for head in range(stack.heads.heads):
            pattern, values, z = (
                stored[f"{prefix}{kind}_L1H{head}"][1].load() for kind in ("pattern", "values", "z")
            )
            torch.testing.assert_close(pattern.sum(-1), torch.ones(len(pattern)))
            torch.testing.assert_close(pattern @ values, z)
            assert torch.equal(z, stored[f"{prefix}z_1"][1].load()[:, head])
            assert bool(pattern.triu(1).any()) != stack.family.causal


@pytest.mark.parametrize("name", [name for name in f.CASES if "logits" in f.CASES[name].hands])
def test_the_logits_are_those_of_the_model(name):
    """`logits` are what the model returns, unless its table says what is done to them later."""
    model = _model(name)
    with torch.no_grad():
        said = model(**f.CASES[name].inputs(model)).logits
    rows = _expected(name, "logits", said)
    if getattr(model.config, "final_logit_softcapping", None):
        cap = model.config.final_logit_softcapping
        rows = [torch.atanh((row / cap).double()).float() * cap for row in rows]
    for example, row in enumerate(rows):
        torch.testing.assert_close(_captured(name)["logits"][example].load(), row)


def test_every_family_and_model_type_has_a_model_here():
    """No family of the table, and no model type of one, is without a test."""
    stacks = [stack for name in f.CASES for stack in locate(_model(name))]
    tested = {stack.family.name for stack in stacks}
    now = [family for family in FAMILIES if "transformers 4" not in family.name]
    assert {family.name for family in now} == tested
    types = {model_type for family in now for model_type in family.model_types}
    assert types == {_model(name).config.model_type for name in f.CASES}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon new", "bert", "vit"])
def test_lower_precision_is_stored_as_it_is(name, dtype):
    """What is read back has the dtype and the bits that passed the point."""
    model = f.CASES[name].make().to(dtype)
    inputs = f.CASES[name].inputs(model)
    inputs |= {k: v.to(dtype) for k, v in inputs.items() if v.is_floating_point()}
    seen, _ = h.see(model, inputs)
    url = f"memory://families/{name}-{dtype}"
    with lc.capture(model, url, "*", overwrite=True), torch.no_grad():
        model(**inputs)
    stored = lc.open(url)
    for site, values in seen.items():
        for example, rows in enumerate(_expected(name, site, values)):
            found = stored[site][example].load()
            assert found.dtype == rows.dtype
            assert torch.equal(found, rows), site


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt-neox", "opt", "bert"])
def test_padding_is_left_out_and_changes_nothing(name, side):
    """A padded batch gives the rows of the same sequences run one by one."""
    model = _model(name)
    generator = torch.Generator().manual_seed(3)
    sequences = [torch.randint(3, 50, (n,), generator=generator) for n in (3, 8, 1, 5)]
    alone, padded = f"memory://families/{name}-alone", f"memory://families/{name}-{side}"
    with lc.capture(model, alone, "*", overwrite=True), torch.no_grad():
        for sequence in sequences:
            model(sequence[None])
    width = max(map(len, sequences))
    batch, mask = (torch.zeros(4, width, dtype=torch.long) for _ in range(2))
    for row, sequence in enumerate(sequences):
        real = slice(0, len(sequence)) if side == "right" else slice(width - len(sequence), width)
        batch[row, real], mask[row, real] = sequence, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with lc.capture(model, padded, "*", overwrite=True), torch.no_grad():
        model(batch, attention_mask=mask, position_ids=positions)
    one, other = lc.open(alone), lc.open(padded)
    query = "SELECT example, position, token_id FROM tokens ORDER BY example, position"
    assert one.sql(query).fetchall() == other.sql(query).fetchall()
    assert set(one) == set(other)
    for site in one:
        for example, sequence in enumerate(sequences):
            found = other[site][example].load()
            expected = one[site][example].load()
            assert len(sequence) in found.shape
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
