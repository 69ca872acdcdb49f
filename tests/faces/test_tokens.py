"""Tokens as they are shown: every character can be seen, none is obeyed."""

import pytest

from lazycache.faces.colours import STEPS, background, step
from lazycache.faces.tokens import flowing, in_line, label

UNSEEN = [*"\u00ad\u200b\u2060\ufeff\u3164\u2800\u200d\ufe0f", "\U000e0041"]


@pytest.mark.parametrize("letter", UNSEEN)
def test_what_has_no_width_is_spelled_out(letter):
    """Of each letter that nobody would see, a label says which it is."""
    said = f"\\U{ord(letter):08x}" if ord(letter) > 0xFFFF else f"\\u{ord(letter):04x}"
    if ord(letter) < 0x100:
        said = f"\\x{ord(letter):02x}"
    assert label(letter) == flowing(letter) == said
    assert flowing(letter * 2) == said * 2


def test_joiners_stay_where_they_join():
    """Emoji and scripts that need them look as they should; an accent stays on its letter."""
    for text in ("👩\u200d💻", "می\u200cخواهم", "❤\ufe0f", "e\u0301"):
        assert flowing(text) == text


def test_spaces_can_be_told_apart():
    """A space is a dot, one that does not break is a box, wide ones are spelled out."""
    assert (label(" a"), label("\u00a0"), label("\u3000")) == ("·a", "⍽", "\\u3000")
    assert flowing("a \u3000b") == "a \u3000b"


def test_ends_of_lines_are_one_arrow_each():
    """Of every kind; in one line none is left."""
    assert flowing("a\r\nb\n") == "a⏎\nb⏎\n"
    assert in_line("a\r\nb\n") == "a⏎b⏎"
    assert label("\r\n\t") == "⏎⇥"


def test_colours_have_as_many_steps_on_either_side():
    """Strongest where the value is the largest, none at zero; what is beyond is the strongest."""
    assert [step(v, 2.0) for v in (-9.0, -2.0, -0.09, 0.11, 2.0)] == [-STEPS, -STEPS, 0, 1, STEPS]
    assert (step(float("inf"), 1.0), step(1.0, float("nan"))) == (STEPS, 0)
    assert background(-STEPS) == "rgba(40,110,200,0.72)"
