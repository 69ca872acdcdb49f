"""Templates become answers: the owner of jinja2. Whatever comes from a dataset is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from lazycache.faces.html import number
from lazycache.faces.tokens import flowing, label
from lazycache.plain_text import in_lines
from lazycache.progress import bytes_text

TEMPLATES = Path(__file__).parent / "templates"


def shown(value: object) -> object:
    r"""Return what a template may write of a value: text with its orders and half characters named.

    Applied to everything that `{{ }}` writes, before it is escaped: a mark that turns the direction
    of a line would turn what is ours beside it, and half a character cannot be sent.

    Example:
        >>> shown("a\u202eb\ud800"), shown(3)
        ('a\\u202eb\\ud800', 3)
    """
    # Markup has been escaped already, and is a str: it stays what it is
    return in_lines(value) if type(value) is str else value


# every value is escaped: no template says `safe` of what came from a dataset
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=shown,
)


def link(path: str, **query: object) -> str:
    """Return the address of a page; queries that are None are left out.

    Example:
        >>> link("/unit", site="mlp_act_3", unit=7, where=None)
        '/unit?site=mlp_act_3&unit=7'
    """
    known = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(known, doseq=True)}" if known else path


def exact(value: str) -> Markup:
    r"""Return text of a form as it must come back: escaped, with nothing else done to it.

    Example:
        >>> exact("a\u200f<")
        Markup('a\u200f&lt;')
    """
    # half a character cannot be sent, and no browser sends one
    return escape(value.encode("utf-8", "replace").decode())


def page(
    request: Request, template: str, known: dict[str, Any], *, status: int = 200
) -> HTMLResponse:
    """Return a page, made of a template and of what it shows."""
    about = {"dataset": request.app.state.explorer, "path": request.scope["path"], **known}
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(about), status_code=status)


def fragment(
    request: Request, template: str, known: dict[str, Any], *, status: int = 200
) -> HTMLResponse:
    """Return a part of a page, which `data-load` of app.js puts into one that is there."""
    return page(request, template, known, status=status)


_ENVIRONMENT.globals["link"] = link
_ENVIRONMENT.filters |= {
    "label": label,
    "flowing": flowing,
    "bytes": bytes_text,
    "number": number,
    "exact": exact,
}
