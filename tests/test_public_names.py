"""The reference is whole: every public name says what it does, takes, costs and refuses.

The rule, a test each:

- the first line is a sentence;
- who takes arguments shows itself in an example, which `--doctest-modules` runs;
- who takes three or more describes each, but for those of torch where torch has the method; nobody
  describes what it does not take;
- who asks a dataset says what that costs, and who may refuse what it refuses.

What "as `mean`" or "see `ActivationCache.top_k`" refers to counts: it is said once.
"""

import builtins
import re

import pytest
import torch
from public_names import Name, everything

from lazycache import errors

NAMES = everything()
BY_PATH = {one.path: one for one in NAMES} | {
    one.path.split(".")[1]: one for one in NAMES if isinstance(one.thing, type) and "." in one.path
}
TAKING = [one for one in NAMES if one.arguments]
MANY = 3

WITHOUT_COST = {
    "lc.capture": "docs/performance.md has its price",
    "lc.extract": "docs/performance.md has its price",
    **dict.fromkeys(
        [
            "lc.register_architecture",
            "ActivationCache.add_metadata",
            "ActivationCache.add_with_info",
            "ActivationCache.default_aggregation",
            "ActivationCache.map_to_dict",
            "ActivationCache.memory_tree",
            "ActivationCache.register_aggregation",
            "ActivationCache.remove_aggregation",
            "ActivationCache.rows",
            "ActivationCache.stored_bytes",
            "ActivationCache.update",
            "ActivationCaching.matches",
            "ActivationCaching.prepare",
            "LazyTensor.size",
            "Norm.apply",
            "Norm.from_tensors",
            "Norm.invert",
            "Norm.stacked",
            "Page.save",
            "Picture.save",
            "Probe.direction_of",
            "RaggedTensor.size",
            "RaggedTensor.topk",
        ],
        "asks no dataset: of what is in memory, or of the log, which was read",
    ),
}
WITHOUT_RAISES = dict.fromkeys(
    [
        "lc.sites",
        "ActivationCache.add_metadata",
        "ActivationCache.add_with_info",
        "ActivationCache.memory_size",
        "ActivationCache.memory_tree",
        "Loader.stream",
        "Norm.apply",
        "Norm.invert",
        "Norm.stacked",
    ],
    "refuses nothing on purpose",
)


def referred(one: Name) -> list[Name]:
    """Give a name and those that its docstring refers to, and so on."""
    found = {one.path: one}
    todo = [one]
    while todo:
        now = todo.pop()
        owner = now.path.split(".")[0]
        for before, name in now.elsewhere:
            path = f"{before or owner}.{name}"
            other = BY_PATH.get(path) or BY_PATH.get(name)
            if other is not None and other.path not in found:
                found[other.path] = other
                todo.append(other)
    return list(found.values())


def lacking(section: str, of: list[Name]) -> set[str]:
    """Give the names that say nothing under this heading, nor where they refer to."""
    return {one.path for one in of if not any(section in other.sections for other in referred(one))}


def test_the_first_line_of_each_is_a_sentence():
    """It stands alone, in lists: it ends where the line ends."""
    lines = {one.path: one.doc.partition("\n")[0] for one in NAMES}
    assert {path: line for path, line in lines.items() if not re.search(r"[.:?]$", line)} == {}
    assert len(lines) > 300  # none were overlooked


def test_who_takes_arguments_has_an_example():
    """The example runs: all modules of the package are collected for doctests."""
    without = lacking("Example", TAKING)
    assert without == set()
    with_examples = [one for one in NAMES if "Example" in one.sections]
    assert [one.path for one in with_examples if ">>> " not in one.sections["Example"]] == []


def test_the_arguments_are_those_of_the_signature():
    """All of them, in words, where they are many; no other; torch's are torch's."""
    many = [
        one
        for one in TAKING
        if len(one.arguments) >= MANY and not hasattr(torch.Tensor, one.path.split(".")[1])
    ]
    assert lacking("Args", many) == set()
    described = [one for one in TAKING if "Args" in one.sections]
    differing = {one.path for one in described if set(one.documented) != set(one.arguments)}
    assert differing == set()


@pytest.mark.parametrize(
    ("section", "exceptions"),
    [
        pytest.param("Cost", WITHOUT_COST, id="cost"),
        pytest.param("Raises", WITHOUT_RAISES, id="raises"),
    ],
)
def test_who_asks_says_the_price_and_what_is_refused(section, exceptions):
    """Exceptions are named with their reason; none is left that needs no exception any more."""
    assert lacking(section, TAKING) == set(exceptions)


def test_errors_that_are_announced_exist():
    """What stands under Raises is an error of ours or of Python, to be caught by that name."""
    announced = {
        name
        for one in NAMES
        for name in re.findall(r"^ {4}(\w+):", one.sections.get("Raises", ""), re.MULTILINE)
    }
    known = {*vars(errors), *vars(builtins)}
    assert announced - known == set()
    assert len(announced) > 10  # the pattern finds them
