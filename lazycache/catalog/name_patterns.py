"""Patterns of names: globs, alternatives, ranges of numbers, regular expressions. Pure.

The same for sites of a model that are captured and for sites of a dataset that are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from lazycache.errors import SiteNotFoundError

REGULAR = "re:"
"""What a pattern begins with that is a regular expression."""

_SPECIAL = frozenset("*?[{")
_GLOB_TOKEN = re.compile(
    r"(?P<star>\*)|(?P<any>\?)"
    r"|\[(?P<first>\d+)-(?P<last>\d+)\]"
    r"|\[(?P<negate>!?)(?P<chars>[^\[\]]+)\]"
    r"|\{(?P<choices>[^{}]*)\}"
)


def is_pattern(text: str) -> bool:
    """Say whether a text can mean other names than itself.

    Example:
        >>> is_pattern("resid_out_*"), is_pattern("re:.*"), is_pattern("resid_out_3")
        (True, True, False)
    """
    return text.startswith(REGULAR) or not _SPECIAL.isdisjoint(text)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern means, in their order; an empty list if there are none.

    A pattern is a name itself, a glob (`*`, `?`, `[abc]`, alternatives `{3,7}`, numbers `[4-11]`,
    each of which takes a whole number) or `re:` and a regular expression that matches in full.

    Raises:
        SiteNotFoundError: the regular expression is not one.

    Example:
        >>> matching("resid_out_[9-11]", [f"resid_out_{i}" for i in range(20)])
        ['resid_out_9', 'resid_out_10', 'resid_out_11']
        >>> matching("mlp_{in,act}_0", ["mlp_in_0", "mlp_act_0", "mlp_out_0"])
        ['mlp_in_0', 'mlp_act_0']
    """
    known = list(names)
    if pattern in known:
        return [pattern]
    regular = pattern.startswith(REGULAR)
    accepts = _regular_expression(pattern[len(REGULAR) :]) if regular else _glob(pattern)
    return [name for name in known if accepts(name)]


def _regular_expression(text: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(text)
    except re.error as exc:
        raise SiteNotFoundError(f"'re:{text}' is not a valid regular expression: {exc}.") from exc
    return lambda name: compiled.fullmatch(name) is not None


def _glob(pattern: str) -> Callable[[str], bool]:
    """Compile a glob. Number ranges are compared as numbers, so that their size costs nothing."""
    parts: list[str] = []
    ranges: list[range] = []
    end = 0
    for token in _GLOB_TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        parts.append(_glob_token(token, ranges))
        end = token.end()
    try:
        compiled = re.compile("".join(parts) + re.escape(pattern[end:]), re.DOTALL)
    except re.error as exc:  # a range of letters that runs backwards
        raise SiteNotFoundError(f"{pattern!r} is not a valid pattern: {exc}.") from exc

    def accepts(name: str) -> bool:
        match = compiled.fullmatch(name)
        return match is not None and all(
            int(number) in allowed for number, allowed in zip(match.groups(), ranges, strict=True)
        )

    return accepts


def _glob_token(token: re.Match[str], ranges: list[range]) -> str:
    if token["star"]:
        return ".*"
    if token["any"]:
        return "."
    if token["first"]:
        ranges.append(range(int(token["first"]), int(token["last"]) + 1))
        return r"(?<!\d)(\d+)(?!\d)"
    if token["chars"]:
        negate = "^" if token["negate"] else ""
        # ranges such as a-z keep their dash; whatever else means something to `re` is escaped
        chars = re.sub(r"([\\^&~|])", r"\\\1", token["chars"])
        return f"[{negate}{chars}]"
    choices = token["choices"].split(",")
    return f"(?:{'|'.join(re.escape(choice.strip()) for choice in choices)})"
