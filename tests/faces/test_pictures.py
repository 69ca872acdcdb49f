"""Sparklines, histograms and maps as SVG: attributes only, exact places, any numbers."""

import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from lazycache.faces.bars import MOST_BARS, bars, signed_bar
from lazycache.faces.heat_maps import heat_map, png
from lazycache.faces.sparklines import LONGEST, sparkline, sparkline_svg

EVIL = '</title><script>"&'


def rects(svg):
    """The rectangles of a picture, as numbers by name."""
    found = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
    names = ("x", "y", "width", "height")
    return [[float(one.get(name)) for name in names] for one in found]


def test_pictures_need_no_style_and_run_nothing():
    """A page whose policy allows no inline style and no script shows them; they are well-formed."""
    made = [
        sparkline_svg([1.0, 2.0], names=[EVIL, EVIL], title=EVIL),
        bars([1], [0.0, 1.0], title=EVIL, marks=[(EVIL, 0.5)]),
        heat_map(np.eye(2), queries=[EVIL, None], keys=["\n", ""], title=EVIL, hover=True),
        signed_bar(1.0, 2.0),
    ]
    for svg in made:
        ET.fromstring(svg)
        assert not re.search(r"style|<script|\bon\w+=", svg)
        assert set(re.findall(r"(?:https?:)?//[^\"]*", re.sub('base64,[^"]*', "", svg))) == {
            "http://www.w3.org/2000/svg"
        }


def test_a_sparkline_goes_from_the_least_to_the_greatest():
    """Of many numbers each bar is the greatest of a few; what is not finite is no bar."""
    assert sparkline([0, 7, 3.4, math.nan, math.inf]) == "▁█▄··"
    assert sparkline([-1e308, 1e308]) == "▁█"
    assert (sparkline([]), rects(sparkline_svg([]))) == ("", [])
    many = sparkline([0.0] * 599 + [1.0])
    assert many == "▁" * (LONGEST - 1) + "█"
    assert [height for *_, height in rects(sparkline_svg([0, 5, 10], least=0, height=20))] == [
        *(1, 10, 20)
    ]


def test_bars_stand_between_their_edges_and_say_their_counts():
    """Edges that are not even are drawn as they are; empty bins have no bar, small ones one."""
    svg = bars([1, 0, 1000], [0.0, 1.0, 2.0, 10.0], width=100, height=50)
    assert [(x, w, h) for x, _, w, h in rects(svg)] == [(8, 9.5, 1), (28, 79.5, 50)]
    assert "0 to 1: 1<" in svg
    assert "2 to 10: 1,000<" in svg
    tall = [h for *_, h in rects(bars([1, 3], [0.0, 1.0, 2.0], height=64, log=True))]
    assert tall == [32, 64]


def test_many_bins_are_drawn_as_few_without_losing_a_count():
    """Neighbours are counted together, the rest at the end too."""
    svg = bars(np.ones(1001, np.int64), np.arange(1002))
    counts = [int(n) for n in re.findall(r": (\d+)</title>", svg)]
    assert len(counts) <= MOST_BARS
    assert sum(counts) == 1001
    assert "999 to 1,001: 2<" in svg
    with pytest.raises(ValueError, match="2 counts need 3 edges, and there are 2"):
        bars([1, 2], [0.0, 1.0])


def test_marks_stand_at_their_values_and_not_beside_the_edges():
    """Names are on lines of their own, and end where the picture ends."""
    svg = bars([1], [0.0, 10.0], marks=[("low", 1.0), ("out", 11.0), ("high", 10.0)], width=100)
    assert re.findall(r'<line x1="([\d.]+)" x2="\1" y1', svg) == ["18.00", "108.00"]
    assert "out" not in svg
    assert re.findall(r'text-anchor="(\w+)">(?:low|high)', svg) == ["start", "end"]


def test_no_number_is_too_large_or_too_alike():
    """Edges at the ends of float64, edges that are alike, no counts at all."""
    for svg in (bars([1], [-1.7e308, 1.7e308]), bars([5], [1.0, 1.0]), bars([0], [0.0, 1.0])):
        assert "nan" not in svg
        assert "inf" not in svg
    assert rects(signed_bar(math.nan, 1.0))[0][2] == rects(signed_bar(1.0, 0.0))[0][2] == 0


def test_a_large_map_shows_the_largest_of_each_pixel():
    """A map without labels is as large as it was asked to be, and loses no peak."""
    values = np.zeros((500, 500))
    values[333, 1], values[0, 0] = 1.0, math.nan
    svg = heat_map(values, queries=["q"] * 500, keys=["k"] * 500, title="t", side=100, hover=True)
    (image,) = re.findall(r'<image[^>]+width="(\d+)" height="(\d+)"', svg)
    assert image == ("100", "100")
    assert "text-anchor" not in svg
    assert "<title>" not in svg  # too many cells to say each
    small = np.zeros((100, 100))
    small[66, 0] = 1.0
    assert svg == heat_map(small, queries=["q"] * 100, keys=["k"] * 100, title="t", side=100)
    assert len(png(np.zeros((0, 0)))) > 0


def test_a_cell_says_its_tokens_and_number():
    """On hover, of numbers that are not 0."""
    svg = heat_map(np.array([[0.25, 0.0]]), queries=["\n"], keys=[" a", "b"], title="", hover=True)
    assert re.findall("<title>(.*?)</title>", svg) == ["⏎ → ·a: 0.25"]
