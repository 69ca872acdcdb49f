"""What of an address, of options and of the environment nobody may read in a message."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

_NAMES = re.compile(
    r"key|secret|token|passw|credential|connection_string|\bsas|_sas|signature|auth|cookie",
    re.IGNORECASE,
)
_SHORTEST = 4  # hiding a value of three letters would garble messages, and hides nothing
_STARS = "***"
# the part before @ is the container there, as in abfs://container@account.host/folder
_NAMED_BEFORE_AT = ("abfs://", "abfss://", "az://", "adl://")


def shown_url(url: str) -> str:
    """Return an address without user, password, query and fragment: signed ones carry keys there.

    Example:
        >>> shown_url("s3://me:hunter2@bucket/folder?signature=abc")
        's3://bucket/folder'
        >>> shown_url("abfs://container@account.host/folder")
        'abfs://container@account.host/folder'
    """
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    if plain.startswith(_NAMED_BEFORE_AT) and ":" not in _before_at(plain):
        return plain
    return re.sub(r"://[^/]*@", "://", plain)


def _before_at(url: str) -> str:
    match = re.search(r"://([^/]*)@", url)
    return match[1] if match else ""


class Secrets:
    """The secrets that one store was opened with, to keep them out of what it says.

    Options count by their name (`key`, `secret`, `token`, `password`, ...), at any depth, and so do
    variables of the environment. The environment is looked at when a text is hidden, not before.

    Example:
        >>> secrets = Secrets("s3://bucket", {"secret": "hunter2", "anon": False})
        >>> secrets.hidden("hunter2 is wrong"), secrets
        ('*** is wrong', Secrets())
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._known = {*_of_url(url), *_of_options(storage_options)}

    def __repr__(self) -> str:
        """Return nothing of what it holds."""
        return "Secrets()"

    def hidden(self, text: str) -> str:
        """Return the text with stars where a secret was."""
        known = self._known | set(_of_options(os.environ))
        for secret in sorted(known, key=len, reverse=True):  # one may be a part of another
            text = text.replace(secret, _STARS)
        return text


def _of_url(url: str) -> Iterator[str]:
    """User, password and all values of the query, as written and decoded."""
    user = _before_at(url)
    if user and shown_url(url) != url:
        yield from _long_enough(user, *user.split(":"))
    for _, value in parse_qsl(url.partition("?")[2]):
        yield from _long_enough(value)


def _of_options(options: object, *, secret: bool = False) -> Iterator[str]:
    """Texts under names that sound secret, at any depth."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from _of_options(value, secret=secret or bool(_NAMES.search(str(name))))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _of_options(value, secret=secret)
    elif secret and isinstance(options, str):
        yield from _long_enough(options)


def _long_enough(*values: str) -> Iterator[str]:
    for value in values:
        for form in {value, unquote(value)}:
            if len(form) >= _SHORTEST:
                yield form
