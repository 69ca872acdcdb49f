"""Makes docs/reference/api: what each public name is, in a table, and the place for its docstring.

`python tests/api_pages.py` writes the pages; a test compares them with what it would write.
"""

import dataclasses
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

from public_names import TENSORS, Name, of_class, of_packages

import lazycache as lc

FOLDER = Path(__file__).parent.parent / "docs" / "reference" / "api"

TITLES = {
    "front-door": ("The front door", "What `import lazycache as lc` gives."),
    "activation-cache": (
        "ActivationCache",
        (
            "What `lc.open` returns: a mutable mapping of names to lazy tensors, with the "
            "questions as methods. In words: [ActivationCache](../activation-cache.md), "
            "[questions](../queries.md)."
        ),
    ),
    "lazy-tensor": (
        "LazyTensor",
        (
            'A site of one row shape, `cache["resid_out_5"]`. In words: [lazy '
            "tensors](../lazy-tensor.md), [rows](../rows.md)."
        ),
    ),
    "ragged-tensor": (
        "RaggedTensor",
        (
            'A site whose rows differ in width, `cache["pattern_3"]`. In words: [lazy '
            "tensors](../lazy-tensor.md)."
        ),
    ),
    "lazy-stack": (
        "LazyStack",
        (
            'Several sites as one tensor, `cache.stack("resid_out_*")`. In words: [lazy '
            "tensors](../lazy-tensor.md)."
        ),
    ),
    "query": (
        "Questions",
        (
            "`lazycache.query`: each question as a function, and what questions return. Most call "
            "the methods of the cache. In words: [questions](../queries.md)."
        ),
    ),
    "feed": ("Training feed", "`lazycache.feed`. In words: [training](../training.md)."),
    "pictures": ("Pictures", "`lazycache.pictures`. In words: [pictures](../pictures.md)."),
    "ray": ("Ray", "`lazycache.integrations.ray`. In words: [writers](../writers.md)."),
    "errors": (
        "Errors",
        (
            "`lazycache.errors`: each is also the builtin that callers already catch, and its "
            "message says what to do."
        ),
    ),
}
CLASSES = {
    "activation-cache": lc.ActivationCache, "lazy-tensor": TENSORS[0],
    "ragged-tensor": TENSORS[1], "lazy-stack": TENSORS[2],
}  # fmt: skip
MODULES = {
    "front-door": "lc", "query": "query", "feed": "feed",
    "pictures": "pictures", "ray": "ray", "errors": "errors",
}  # fmt: skip


def pages() -> dict[str, str]:
    """Return the text of each page, by the name of its file."""
    made = {f"{key}.md": _page(key) for key in TITLES}
    lines = [f"- [{title}]({key}.md): {about}\n" for key, (title, about) in TITLES.items()]
    return {"README.md": f"# API\n\nEvery public name.\n\n{''.join(lines)}", **made}


def _page(key: str) -> str:
    title, about = TITLES[key]
    names = of_class(CLASSES[key]) if key in CLASSES else _of(MODULES[key])
    rows = "".join(f"| `{_short(one)}` | {_first_line(one)} |\n" for one in names)
    detail = "\n".join(_details(key, names))
    table = f"| name | what it does |\n|---|---|\n{rows}"
    return (
        f"# {title}\n\n{about}\n\n{table}\n## In detail\n\n"
        f"The docstrings, as `help()` shows them too.\n\n{detail}"
    )


def _of(package: str) -> list[Name]:
    return [one for one in of_packages() if one.path.startswith(f"{package}.")]


def _short(one: Name) -> str:
    return one.path.split(".", 1)[1]


def _first_line(one: Name) -> str:
    return one.doc.partition("\n")[0].replace("|", "\\|")


def _details(key: str, names: Iterable[Name]) -> Iterator[str]:
    """Give what mkdocstrings replaces: of a class itself, of a package each name."""
    if key in CLASSES:
        yield _directive(_place(CLASSES[key]), [_short(one) for one in names])
        return
    for one in names:
        if key == "front-door" and _is_told_elsewhere(one):
            continue
        members = [] if key == "errors" else _members(one.thing)
        yield _directive(_place(one.thing), members)


def _members(thing: object) -> list[str]:
    """Give the fields of a dataclass, each with a line below it in the source, then methods."""
    if not inspect.isclass(thing):
        return []
    fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
    named = [one.name for one in fields if not one.name.startswith("_")]
    return [*named, *(_short(one) for one in of_class(thing) if _short(one) not in named)]


def _is_told_elsewhere(one: Name) -> bool:
    return one.thing in {*CLASSES.values(), lc.LazycacheError}


def _place(thing: object) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _directive(place: str, members: list[str]) -> str:
    return f"::: {place}\n    options: {{ members: [{', '.join(members)}] }}\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        (FOLDER / file).write_text(text, encoding="utf-8")
