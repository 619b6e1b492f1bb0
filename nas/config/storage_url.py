"""Database URLs in a config."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from sqlalchemy import URL

# A parameter that holds a password, such as ?password=SECRET.
_SECRET = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)([^&]*)", re.IGNORECASE)


def expand_variables(url: str) -> str:
    """Returns a URL with its environment variables expanded. A password in a variable may contain any character."""
    quoted = re.sub(r"(?<=:)\$(?:\w+|{\w+})(?=@)", lambda variable: quote(os.path.expandvars(variable[0]), safe=""), url)
    return os.path.expandvars(quoted)


def hide_password(url: str) -> str:
    """Returns a URL with *** instead of its passwords, also those among its parameters."""
    url = _SECRET.sub(r"\1***", url)
    parsed = _parse(url)
    if parsed is None:
        return re.sub(r":.*@", ":***@", url)
    url = parsed.render_as_string(hide_password=True)
    # A password may contain an @: hide everything up to the last @.
    return re.sub(r"(?<=\w):[^/].*@", ":***@", url)


def validate_url(url: str) -> str | None:
    """Returns the fault of a database URL whose variables are not expanded; None if the URL is valid."""
    parsed = _parse(url)
    if parsed is None:
        return f"must be a URL such as postgresql+psycopg2://USER:$PASSWORD@HOST/NAME, got {hide_password(url)!r}"
    if re.search(r"://[^/@]*:[^$@/][^@]*@", url) or any(not secret[2].startswith("$") for secret in _SECRET.finditer(url)):
        return "must hold no password, because run files are shared; write $NAME, an environment variable"
    if parsed.get_backend_name() == "sqlite" and not (parsed.database or "").startswith("/"):
        return f"must be the absolute path of a file, such as sqlite:////HOME/ME/studies.db, got {url!r}"
    return None


def _parse(url: str) -> URL | None:
    """Returns the parsed URL, with its environment variables expanded; None if it cannot be parsed."""
    from sqlalchemy import make_url  # Slow to import.
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(expand_variables(url))
    except (ArgumentError, ValueError):
        return None
