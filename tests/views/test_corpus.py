"""Corpus files: texts by paragraph, JSON by line, and a text column of any name."""

import pytest

from lazycache.errors import CaptureError
from lazycache.views.corpus import read_corpus


def test_paragraphs_and_lines_are_examples(tmp_path):
    """A text file is split at blank lines, a .jsonl at line ends only."""
    (tmp_path / "a.txt").write_text("One\ntwo.\n\n\n\nThree.\n")
    assert read_corpus(tmp_path / "a.txt") == [{"text": "One two."}, {"text": "Three."}]
    (tmp_path / "b.jsonl").write_text('{"text": "a\u2028b", "k": 1}\n\n{"input_ids": [1]}\n')
    assert read_corpus(tmp_path / "b.jsonl") == [{"text": "a\u2028b", "k": 1}, {"input_ids": [1]}]


def test_the_text_column_becomes_text(tmp_path):
    """The column that is named is the text; the others stay."""
    (tmp_path / "a.jsonl").write_text('{"body": "Hi.", "k": 1}\n')
    assert read_corpus(tmp_path / "a.jsonl", text_column="body") == [{"text": "Hi.", "k": 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"boddy": "Hi."}', "no column 'body'. Nearest: boddy"),
        ("a.jsonl", '{"body": "Hi.", "text": "x"}', "has a column 'text' beside 'body'"),
        ("a.txt", "Hi.", "no .jsonl file"),
        ("a.jsonl", "[1]", "Line 1 .* not a JSON object"),
        ("a.jsonl", "{", "Line 1 .* not JSON"),
        ("a.jsonl", "\n", "holds no example"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path, name, content, message):
    """A file that cannot be read as asked is named with its line."""
    (tmp_path / name).write_text(content)
    with pytest.raises(CaptureError, match=message):
        read_corpus(tmp_path / name, text_column="body")
