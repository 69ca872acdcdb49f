"""Templates become answers: the owner of jinja2. Whatever comes from a dataset is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from lazycache.faces.tokens import flowing, label
from lazycache.progress import bytes_text

TEMPLATES = Path(__file__).parent / "templates"

# every value is escaped: no template says `safe` of what came from a dataset
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def link(path: str, **query: object) -> str:
    """Return the address of a page; queries that are None are left out.

    Example:
        >>> link("/unit", site="mlp_act_3", unit=7, where=None)
        '/unit?site=mlp_act_3&unit=7'
    """
    known = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(known, doseq=True)}" if known else path


def page(
    request: Request, template: str, known: dict[str, Any], *, status: int = 200
) -> HTMLResponse:
    """Return a page, made of a template and of what it shows."""
    shown = {"dataset": request.app.state.explorer, "path": request.url.path, **known}
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(shown), status_code=status)


_ENVIRONMENT.globals["link"] = link
_ENVIRONMENT.filters |= {"label": label, "flowing": flowing, "bytes": bytes_text}
