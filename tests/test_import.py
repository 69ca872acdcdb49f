"""Importing lazycache is cheap, needs no model library, and loads what is used and no more."""

import json
import subprocess
import sys

import lazycache as lc
from lazycache.samples import small_cache


def _loaded(code, *packages):
    """Return the modules of `packages` that a new process has after running `code`."""
    (names,) = _loaded_each("", [code])
    return _of(names, *packages)


def _loaded_each(first, codes):
    """Return the modules that forks of a new process, which has run `first`, have after each code.

    What takes long to import and is not asked for is imported once.
    """
    done = subprocess.run(
        [sys.executable, "-c", FORKS, first, *codes], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


FORKS = """
import json, os, sys
exec(sys.argv[1])
for code in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        exec(code)
        print(json.dumps(sorted(sys.modules)), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(code)
"""


def _of(names, *packages):
    return [n for n in names if any(n == p or n.startswith(f"{p}.") for p in packages)]


def test_import_brings_no_library_and_reading_brings_no_writer(tmp_path):
    """`import lazycache` loads no torch; reading loads no writer or DuckDB, asking no pandas."""
    libraries = ("torch", "pyarrow", "duckdb", "transformers", "rich", "typer", "pandas", "polars")
    assert _loaded("import lazycache", *libraries) == []
    saving = (
        "import torch, lazycache as lc\n"
        "cache = lc.ActivationCache({'site': torch.arange(8.).reshape(4, 2)})\n"
        f"cache.save({str(tmp_path / 'acts')!r})"
    )
    reading = (
        "import lazycache as lc\n"
        f"cache = lc.open({str(tmp_path / 'acts')!r})\n"
        "assert cache['site'][3].load().tolist() == [6.0, 7.0]\n"
        "assert (cache['site'] + 1).mean('rows').tolist() == [4.0, 5.0]\n"
        "assert lc.open.__module__ == 'lazycache.opening'"
    )
    url = str(tmp_path / "copied")
    lc.copy(small_cache().url, url, progress=False)
    lc.open(url).sql("SELECT row FROM tokens").fetchall()  # makes the index
    asking = (
        "import lazycache as lc\n"
        f"cache = lc.open({url!r})\n"
        "query = 'SELECT resid_out_0, unit(resid_out_0, 1), norm(resid_out_0) FROM tokens'\n"
        "assert cache.sql(query).fetchall()[0] == ((0.0, 1.0), 1.0, 1.0)\n"
        "assert cache.sql('SELECT dot([1, NULL], [2, 3])').fetchall() == [(None,)]\n"
        "assert len(cache.sql('SELECT * FROM statistics').fetchall()) == 2"
    )
    saved, read, asked = _loaded_each("import torch", [saving, reading, asking])
    assert "lazycache.writer.writer" in saved
    stages = ("lazycache.capture", "lazycache.writer", "lazycache.query", "lazycache.dataset")
    assert _of(read, *stages, "duckdb", "pyarrow", "transformers", "tokenizers") == []
    # pyarrow loads it for any array of numpy, and fails where two threads of DuckDB are the first
    assert _of(asked, "pandas", "transformers") == []


def test_the_function_capture_is_not_hidden_by_the_folder_of_its_name():
    """`lc.capture` is the function, whoever has loaded the package `lazycache.capture` before."""
    code = (
        "import lazycache as lc\n"
        "from lazycache.capture.sites import architectures\n"
        "assert callable(lc.register_architecture)\n"
        "import lazycache.capture.sites.names\n"
        "assert lc.capture.__module__ == 'lazycache.dataset', lc.capture\n"
        "import lazycache.capture.passes\n"
        "assert callable(lc.capture) and lc.capture is lazycache.capture"
    )
    assert _loaded(code, "lazycache.dataset")


def test_the_public_names_are_few_and_documented():
    """`lazycache` exposes at most 15 names, each with a docstring and found by `dir`."""
    import lazycache

    assert len(lazycache.__all__) <= 15
    assert set(lazycache.__all__) <= set(dir(lazycache))
    for name in lazycache.__all__:
        assert getattr(lazycache, name).__doc__
    assert issubclass(lazycache.errors.SelectionError, lazycache.LazycacheError)
    assert not hasattr(lazycache, "no_such_name")
