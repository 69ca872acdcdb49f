# ruff: noqa: INP001  # mkdocs loads it by its path
"""A hook of mkdocs: what lies outside docs/ becomes pages, and links to it lead there.

The documentation is read in the repository too, where `../../examples/probe.py` is a file beside
it. On the site the same link leads to a page with the code.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DECISIONS = "design/decisions"
DIRECTIVE = re.compile(r"^::: (\S+)\n    options: \{ members: \[(.*)\] \}", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: changes, examples, the list of decisions."""
    for uri, text in _made().items():
        # a file that somebody writes in docs/ is theirs
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links that leave docs/ to the pages that stand for what is there."""
    uri = page.file.src_uri

    def led(found: re.Match[str]) -> str:
        target = _on_site(uri, found.group(1))
        return f"]({target}{found.group(2) or ''})"

    return _linked(LINK.sub(led, markdown)) if "\n::: " in markdown else LINK.sub(led, markdown)


def _linked(markdown: str) -> str:
    """Link the names of the table of an API page to their docstrings, further down the page."""
    places = {}
    for place, members in DIRECTIVE.findall(markdown):
        places[place.rpartition(".")[2]] = place
        places |= {name: f"{place}.{name}" for name in members.split(", ") if name not in places}

    def link(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"| [`{name}`][{places[name]}] |" if name in places else found.group()

    return re.sub(r"^\| `(\w+)` \|", link, markdown, flags=re.MULTILINE)


def _made() -> dict[str, str]:
    examples = ROOT / "examples"
    made = {"CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")}
    for path in sorted(examples.glob("*.py")):
        code = path.read_text(encoding="utf-8")
        made[f"examples/{path.stem}.md"] = f"# {path.name}\n\n```python\n{code}```\n"
    for path in sorted(examples.glob("*.ipynb")):
        made[f"examples/{path.stem}.md"] = _notebook(path)
    readme = examples / "README.md"
    made["examples/README.md"] = (
        readme.read_text(encoding="utf-8") if readme.exists() else _listed("Examples", made)
    )
    made[f"{DECISIONS}/README.md"] = _decisions()
    return made


def _listed(title: str, made: dict[str, str]) -> str:
    names = sorted(Path(uri).stem for uri in made if uri.startswith("examples/"))
    return f"# {title}\n\n" + "".join(f"- [{name}]({name}.py)\n" for name in names)


def _notebook(path: Path) -> str:
    """Text and code of a notebook; what it showed is in the file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [
        "".join(cell["source"])
        if cell["cell_type"] == "markdown"
        else f"```python\n{''.join(cell['source'])}\n```"
        for cell in cells
    ]
    return "\n\n".join([*parts, ""])


def _decisions() -> str:
    """A list of the notes, newest first, by the title that each begins with."""
    notes = sorted((ROOT / "docs" / DECISIONS).glob("*.md"), reverse=True)
    titles = [note.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for note in notes]
    lines = [f"- [{title}]({note.name})\n" for title, note in zip(titles, notes, strict=True)]
    return "# Decisions\n\n" + "".join(lines)


def _on_site(uri: str, target: str) -> str:
    """Return the link on the site, relative to its page."""
    here = posixpath.dirname(_in_repository(uri))
    path = posixpath.normpath(posixpath.join(here, target))
    if path.startswith("docs/") and not path.endswith(DECISIONS):
        page = path.removeprefix("docs/")
    elif re.fullmatch(r"examples/\w+\.(py|ipynb)", path):
        page = re.sub(r"\.\w+$", ".md", path)
    else:
        page = _FOLDERS.get(path, path)
    return posixpath.relpath(page, posixpath.dirname(uri) or ".")


def _in_repository(uri: str) -> str:
    return uri if uri == "CHANGELOG.md" or uri.startswith("examples/") else f"docs/{uri}"


_FOLDERS = {
    "examples": "examples/README.md",
    "docs/design/decisions": f"{DECISIONS}/README.md",
}
