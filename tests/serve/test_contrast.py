"""The colours of the sheet can be told apart, and text on them can be read (WCAG 2.2, AA)."""

import re

import pytest

from lazycache.faces.colours import NEGATIVE, POSITIVE, STEPS, STRONGEST
from lazycache.serve.app import STATIC

SHEET = (STATIC / "style.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", part))
    for part in re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL)
)
WHITE_FROM = 6
"""The step of orange from which ink is white on dark pages, as the sheet says."""


def _channels(colour):
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def _brightness(channels):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in channels)
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one, other):
    low, high = sorted(map(_brightness, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, {**LIGHT, **DARK}], ids=["light", "dark"])
def test_texts_and_edges_stand_out(scheme):
    """Text has 4.5 against page and panel; edges of fields, focus and bars have 3."""
    for ground in (_channels(scheme["paper"]), _channels(scheme["panel"])):
        for names, least in (
            (("ink", "faint", "link", "alarm"), 4.5),
            (("edge", "focus", "mark", "second"), 3),
        ):
            found = {name: _contrast(_channels(scheme[name]), ground) for name in names}
            assert min(found.values()) >= least, found


@pytest.mark.parametrize("scheme", [LIGHT, {**LIGHT, **DARK}], ids=["light", "dark"])
def test_tokens_can_be_read_on_every_colour(scheme):
    """The ink has 4.5 on every step of orange and blue, over page and panel."""
    assert re.findall(r"\.token\.p(\d+)", SHEET) == [str(n) for n in range(WHITE_FROM, STEPS + 1)]
    is_dark = scheme["paper"] == DARK["paper"]
    for ground in (_channels(scheme["paper"]), _channels(scheme["panel"])):
        for colour in (POSITIVE, NEGATIVE):
            for at in range(1, STEPS + 1):
                share = at / STEPS * STRONGEST
                mixed = [share * c + (1 - share) * g for c, g in zip(colour, ground, strict=True)]
                white = is_dark and colour == POSITIVE and at >= WHITE_FROM
                ink = (255, 255, 255) if white else _channels(scheme["ink"])
                assert _contrast(ink, mixed) >= 4.5, (colour, at)
