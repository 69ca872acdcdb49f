"""Importing lazycache is cheap and needs no model library."""

import json
import subprocess
import sys


def test_import_brings_no_model_library_and_no_terminal_face():
    """`import lazycache` loads neither transformers nor rich nor typer nor pandas."""
    code = (
        "import sys, json, lazycache;"
        "print(json.dumps([m for m in ('transformers','rich','typer','pandas','polars',"
        "'tokenizers') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_public_names_are_few_and_documented():
    """`lazycache` exposes at most 15 names, each with a docstring."""
    import lazycache

    assert len(lazycache.__all__) <= 15
    for name in lazycache.__all__:
        assert getattr(lazycache, name).__doc__
