"""Pictures that are matplotlib figures: shown, saved, and text that cannot harm them."""

import subprocess
import sys

import pytest

from lazycache.errors import CaptureError, StorageError
from lazycache.pictures import picture as module
from lazycache.pictures.picture import Picture, new_figure
from lazycache.pictures.plain_labels import drawn_text, drawn_token


def drawn(title="a picture"):
    figure = new_figure(2, 1)
    figure.add_subplot().set_title(drawn_text(title))
    return Picture(figure, title=title)


def test_it_is_saved_by_the_ending_of_the_path(tmp_path):
    """PNG, SVG and PDF by the ending, PNG without one; the answer says where it is."""
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for ending, begin in begins.items():
        place = drawn().save(tmp_path / f"a{ending}")
        assert place.read_bytes().startswith(begin)
    place = drawn().save(str(tmp_path / "bare"))
    assert place == tmp_path / "bare.png"
    assert place.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_saved_says_why(tmp_path):
    """A folder that is not there and an ending that is no image are refused in a sentence."""
    with pytest.raises(StorageError, match=r"Cannot save the picture as .*a\.png: No such file"):
        drawn().save(tmp_path / "none" / "a.png")
    with pytest.raises(StorageError, match="Format 'xyz' is not supported"):
        drawn().save(tmp_path / "a.xyz")


def test_a_notebook_shows_it_at_its_size():
    """It is a PNG with twice the pixels of the place that it takes, or nearly."""
    data, size = drawn()._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert size == {"width": 192, "height": 96}
    assert int.from_bytes(data[16:20]) == 288
    assert repr(drawn()) == "Picture('a picture', 2 x 1 inches)"


def test_nothing_global_of_matplotlib_is_touched():
    """Drawing loads no pyplot, chooses no backend, and `import lazycache` no matplotlib."""
    code = (
        "import sys, lazycache, lazycache.pictures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from lazycache.pictures.picture import new_figure\n"
        "new_figure(1, 1).add_subplot()\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    """Where matplotlib is missing the error has the command."""

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(CaptureError, match=r'pip install "lazycache\[view\]"'):
        new_figure(1, 1)


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (" the", "·the"),
        ("\n", "⏎"),
        ("", "∅"),
        (None, "?"),
        ("$x$", r"\$x\$"),
        ("a" * 300, "a" * 13 + "…"),
        ("\u4e2d\u6587\u5b57", r"\u4e2d\u6587…"),
        ("\u200b", r"\u200b"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
        ("\x1b[2J", r"\x1b[2J"),
    ],
)
def test_tokens_are_labels(token, label):
    """What the font lacks, what nobody sees and what is obeyed is spelled out, in one line."""
    assert drawn_token(token) == label


def test_odd_text_is_drawn_without_a_warning(tmp_path):
    """Dollars are no mathematics and no letter is missing, of which matplotlib would warn."""
    for text in ("$x^{2$", "$a$", r"\$", "\u4e2d", "\U00020000", "{", "%", "\ud800"):
        assert drawn(text).save(tmp_path / "odd.png").stat().st_size > 0
