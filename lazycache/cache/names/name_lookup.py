"""The site that a key means: our names, easyroutine's, TransformerLens', paths of modules. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lazycache.cache.names import easyroutine_names, transformer_lens
from lazycache.cache.names.head_names import parse
from lazycache.cache.names.key_forms import GRADIENT, KeyForm, key_form
from lazycache.cache.names.meanings import Meaning
from lazycache.cache.names.module_paths import raw_name, sites_at
from lazycache.catalog.name_patterns import is_pattern
from lazycache.catalog.natural import natural_key
from lazycache.catalog.run_info import layer_count, says_positions_are_added
from lazycache.errors import SiteNotFoundError, nearest

_SHOWN = 8
"""Names that an error lists."""


@dataclass(frozen=True, slots=True)
class Names:
    """What there is to be found."""

    there: Collection[str]
    """Names of the entries."""
    where: str
    """What has them, for people: an address."""
    infos: Sequence[Mapping[str, Any]] = ()
    """What the runs say of themselves: where sites were in the model, how many layers it has."""
    headed: Collection[str] | None = None
    """Entries of which single heads can be read, `z_L1H3`; None: all that there are."""

    def find(self, name: str) -> str | None:
        """Return a name of ours as it is to be read, `values_L1` as `values_1`, or None."""
        if name in self.there:
            return name
        headed = self.there if self.headed is None else self.headed
        asked = parse(name)
        if asked is None or asked.site not in (self.there if asked.head is None else headed):
            return None
        return asked.site if asked.head is None else name


def resolve(key: object, names: Names) -> str:
    """Return the name of ours that a key means, as it is there.

    A key is a name itself; another name of a site (`values_L1`, `resid_out_-1`) or of one head of
    it (`z_L1H3`); a name of easyroutine's or TransformerLens' cache; a tuple of name and layer,
    `("resid_post", 3)`; or the path of a module, with its side or without (`:out`). Layer -1 is the
    last that the model has, as far as a run says how many, else the last of that name there is.

    Cost: reads nothing; a path is looked for in what the runs say.

    Raises:
        SiteNotFoundError: it means nothing that is there; says what it means, and what there is.

    Example:
        >>> resolve(("resid_post", -1), Names(["resid_out_0", "resid_out_1"], "here"))
        'resid_out_1'
    """
    if isinstance(key, str) and (found := names.find(key)) is not None:
        return found
    form = key_form(key)
    meanings = [] if form is None else list(_meanings(form, names))
    for template, layer in _spellings(form, meanings):
        name = _at_layer(template, layer, names)
        if name is not None and (found := names.find(name)) is not None:
            return found
    return _at_path(key, names) or _not_found(key, form, meanings, names)


def _meanings(form: KeyForm, names: Names) -> Iterator[Meaning]:
    """Yield what a key may mean, best first: our own kinds, easyroutine's, TransformerLens'."""
    if not form.hook:
        yield Meaning(form.kind, gradient=form.gradient)
    if not form.hook and (found := easyroutine_names.MEANINGS.get(form.kind)) is not None:
        yield replace(found, gradient=found.gradient or form.gradient)
    added = any(map(says_positions_are_added, names.infos))
    lens = transformer_lens.meaning(form, adds_positions=added)
    if lens is not None:
        yield replace(lens, gradient=form.gradient)


def _spellings(
    form: KeyForm | None, meanings: Sequence[Meaning]
) -> Iterator[tuple[str, int | None]]:
    """Yield names with a place for the layer, and the layer."""
    if form is None:
        return
    for one in meanings:
        if one.kind:
            yield _template(form, one), form.layer
    hook = transformer_lens.hook_template(form)
    yield hook, form.layer
    yield f"{hook}:out", form.layer


def _template(form: KeyForm, meaning: Meaning) -> str:
    """Return a name of ours with a place for the layer: `resid_out_{}`, `z_L{}H3`."""
    end = GRADIENT if meaning.gradient else ""
    # what a model has once has no layer, whatever part of a layer was asked by
    if form.layer is None or meaning.kind in ("embed", "final_norm"):
        return f"{form.prefix}{meaning.kind}{end}"
    layer = "_{}" if form.head is None else f"_L{{}}H{form.head}"
    return f"{form.prefix}{meaning.kind}{layer}{end}"


def _at_layer(template: str, layer: int | None, names: Names) -> str | None:
    """Fill in the layer, counted from the last if it is negative; None if there is no such."""
    if layer is None or layer >= 0:
        return template.format(layer)
    count = _layers(template, names)
    return template.format(count + layer) if count + layer >= 0 else None


def _layers(template: str, names: Names) -> int:
    """Return how many layers the model has, or at least those of a name that there are.

    Raises:
        SiteNotFoundError: the runs are of models with different numbers of layers.
    """
    prefix = next((p for p in ("encoder.", "decoder.") if template.startswith(p)), "")
    said = {count for info in names.infos if (count := layer_count(info, prefix)) is not None}
    if len(said) > 1:
        raise SiteNotFoundError(
            f"{names.where} has runs of models with {' and '.join(map(str, sorted(said)))} layers: "
            "say which layer, counted from 0."
        )
    return said.pop() if said else _last(template, names) + 1


def _last(template: str, names: Names) -> int:
    # one head of a site is asked for by the site's layer
    site = re.sub(r"_L\{\}H[0-9]+", "_{}", template)
    shape = re.compile(re.escape(site).replace(r"\{\}", "([0-9]{1,9})"))
    found = (shape.fullmatch(name) for name in names.there if isinstance(name, str))
    return max((int(match[1]) for match in found if match is not None), default=-1)


def _at_path(key: object, names: Names) -> str | None:
    """Return the site that was captured at the path of a module.

    Raises:
        SiteNotFoundError: several different sites were, or heads were cut out of it.
    """
    raw = raw_name(key)
    if raw is None:
        return None
    if raw in names.there:
        return raw
    found = sites_at(raw, names.there, names.infos)
    if found.whole:
        return found.whole[0]
    if found.parts:
        raise SiteNotFoundError(
            f"{key!r}: what passed there is stored cut into heads: read "
            f"{' and '.join(map(repr, found.parts))}."
        )
    return None


def _not_found(key: object, form: KeyForm | None, meanings: Sequence[Meaning], names: Names) -> str:
    """Raise what says what was asked for, and what there is."""
    for one in meanings[::-1]:
        if one.instead:
            raise SiteNotFoundError(f"there is no {key!r} here: {_filled(one.instead, form)}.")
    meant = meanings[-1] if meanings else None
    if form is None or meant is None or (meant.kind == form.kind and not isinstance(key, tuple)):
        there = nearest(str(key), map(str, names.there))
        raise SiteNotFoundError(
            f"there is no site {key!r} in {names.where}. {there}{_several(key)}"
        )
    site = _template(form, meant)
    name = _at_layer(site, form.layer, names) or site.format(form.layer)
    raise SiteNotFoundError(
        f"{key!r} means {name!r}, which is not in {names.where}. {_alike(site, name, names)}"
    )


def _several(key: object) -> str:
    if not isinstance(key, str) or not is_pattern(key):
        return ""
    return f" A pattern names several: cache.stack({key!r}), or cache.keys({key!r})."


def _filled(instead: str, form: KeyForm | None) -> str:
    layer = "L" if form is None or form.layer is None else form.layer
    head = "H" if form is None or form.head is None else form.head
    return instead.format(L=layer, H=head)


def _alike(template: str, name: str, names: Names) -> str:
    """Say of which other layers there is such a site, else which names are near."""
    kind = template.partition("_{}")[0].partition("_L{}")[0]
    alike = [one for one in names.there if re.fullmatch(rf"{re.escape(kind)}_[0-9]+", str(one))]
    if not alike or kind == template:
        return nearest(name, map(str, names.there))
    shown = sorted(alike, key=natural_key)
    return f"There are {', '.join(shown[:_SHOWN])}{', ...' if len(shown) > _SHOWN else ''}."
