"""What attends to what, and what writes a direction, as methods of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

    from lazycache.cache.tables.conditions import Params
    from lazycache.query.asked import Cache
    from lazycache.query.attending.attention_maps import AttentionMap
    from lazycache.query.attending.attributed import Attribution
    from lazycache.query.attending.attribution import Direction, Scale
    from lazycache.query.attending.pattern_sites import Layer


class Attending:
    """What attends to what, and what writes a direction."""

    __slots__ = ()

    def attention(self, example: int, layer: Layer, head: int | None = None) -> AttentionMap:
        """Return what the tokens of one example attend to, with the tokens.

        `.values` is [heads, query, key], of one head [query, key], in the stored dtype; `.tokens`
        are those of the keys, `.queries` and `.positions` say which rows were captured. In a
        notebook it is a picture of each head; `.df()` has a row for each number.

        Args:
            example: Its id, as the column `example` of SQL has it; not its place in the site.
            layer: Number of a layer, negative from the last, or the name of a site:
                `decoder.pattern_3`, `decoder.cross_pattern_3`, `pattern_L3H0`.
            head: Number of one head of the model; None: all that were stored.

        Cost: the rows of this example, of which only the head that is asked for; two queries of
        the index.

        Raises:
            SiteNotFoundError: the pattern is not stored; says which are, and what to capture.
            QueryError: no such example, or several runs have it.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache().attention(1, layer=0, head=0).values
            tensor([[1.0000, 0.0000, 0.0000],
                    [0.5000, 0.5000, 0.0000],
                    [0.3333, 0.3333, 0.3333]])
        """
        from lazycache.query.attending.attention_maps import attention

        return attention(cast("Cache", self), example, layer, head)

    def mean_attention(
        self,
        layer: Layer | Sequence[Layer],
        to: str,
        *,
        to_params: Params = None,
        where: str | None = None,
        params: Params = None,
    ) -> torch.Tensor:
        """Return how much of its attention each head gives to some tokens, in the mean.

        For each query the probabilities of the keys that satisfy `to` are added up; the result is
        the mean of this over the queries: float64[heads]. Of several layers, a list or a pattern
        of names (`pattern_*`), float64[layers, heads]; of one head (`pattern_L3H0`) a number.

        Args:
            layer: As in `attention`; or several.
            to: Which keys: a condition of SQL on rows of the table of tokens, those of the
                encoder for `cross_pattern_L`. `"token = '.'"`, `"position = 0"`. Where it is NULL
                the key does not count.
            to_params: Values for its parameters.
            where: Which queries: a condition on their rows, `"position > 0"`; None: all.
            params: Values for the parameters of `where`.

        NaN among the attention that is asked for gives NaN.

        Cost: reads each pattern once, in blocks of examples of up to 64 MB, or one example; asks
        the index for positions of the keys. Memory does not grow with the dataset, but for the
        rows that satisfy the conditions: 16 bytes for each run of neighbours.

        Raises:
            SiteNotFoundError: a pattern is not stored.
            QueryError: no such column; no query is chosen; tokens of keys were not stored (captured
                with `positions="last"`, say); or layers have different numbers of heads.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache().mean_attention(0, "position = 0", where="position > 0")
            tensor([0.4444, 0.0000], dtype=torch.float64)
        """
        from lazycache.query.attending.mean_attentions import mean_attention

        return mean_attention(
            cast("Cache", self), layer, to, to_params=to_params, where=where, params=params
        )

    def attribute(
        self,
        example: int,
        position: int | None,
        direction: Direction,
        *,
        components: Sequence[str] | None = None,
        at: str | None = None,
        heads: bool = False,
        scale: Scale = None,
        eps: float = 1e-5,
    ) -> Attribution:
        """Return how much each part of the model wrote of a direction into the residual stream.

        The stream of a pre-norm model is a sum: of `embed` and of what each layer added. So its
        product with a direction is the sum of the products of these parts, float64, `.values` by
        `.names`. The last part, `remainder`, is what the stored parts leave: what was not stored,
        and rounding. It is the `logit_attrs` of TransformerLens.

        Args:
            example: Its id, as the column `example` of SQL has it.
            position: The column `position` of the row; negative from the last that was stored;
                None of a stream with one row for each example.
            direction: A vector of the width of the stream, taken as it is. For a token's logit it
                is its row of the unembedding times the weight of the last norm, with `scale`;
                neither is stored, the model has them.
            components: Sites, or patterns of names, in the place of those that add up. Whether
                they do is then with the caller; the remainder says what is left.
            at: The stream to explain: `resid_out_L`, `resid_mid_L`, `resid_in_L`; None: the last
                that is stored. Layers after it do not count.
            heads: Each head of `head_out_L` in the place of `attn_out_L`, whose bias is left then.
            scale: What the last norm divides by: "rms" (Llama) or "layer" (GPT-2, which also
                centres) work it out from the stream at `at`, a number is taken as it is.
            eps: What the norm adds under the root.

        Cost: one row of each part, and one query of the index.

        Raises:
            SiteNotFoundError: no such site.
            QueryError: no such row; no stream is stored; the direction has another width; or the
                model normalises the stream after it was added to (BERT), so that nothing adds up.

        Example:
            >>> import tempfile, torch, lazycache as lc
            >>> from transformers import GPT2Config, GPT2Model, set_seed
            >>> set_seed(0)
            >>> config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9, bos_token_id=0,
            ...                     eos_token_id=0)
            >>> sites = ["embed", "attn_out_0", "mlp_out_0", "resid_out_0"]
            >>> model = GPT2Model(config).eval().double()
            >>> cache = lc.extract(model, [[1, 2, 3]], tempfile.mkdtemp(), sites)
            >>> found = cache.attribute(0, -1, torch.ones(8))
            >>> found.names
            ('embed', 'attn_out_0', 'mlp_out_0', 'remainder')
            >>> bool(torch.isclose(found.values.sum(), cache["resid_out_0"][0, -1].sum()))
            True
        """
        from lazycache.query.attending.attribution import attribute

        return attribute(
            cast("Cache", self),
            example,
            position,
            direction,
            components=components,
            at=at,
            heads=heads,
            scale=scale,
            eps=eps,
        )
