"""URLs of databases in a config."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError


def expand_variables(url: str) -> str:
    """Returns a URL with its variables; a password that one holds may have any characters."""
    quoted = re.sub(r"(?<=:)\$(?:\w+|{\w+})(?=@)", lambda variable: quote(os.path.expandvars(variable[0]), safe=""), url)
    return os.path.expandvars(quoted)


def hide_password(url: str) -> str:
    """Returns a URL with *** in the place of its password."""
    try:
        url = make_url(expand_variables(url)).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return re.sub(r":.*@", ":***@", url)
    # Of a password with an @ in it, too, all that comes before the last one.
    return re.sub(r"(?<=\w):[^/].*@", ":***@", url)


def validate_url(url: str) -> str | None:
    """Returns what is wrong with the URL of a database as it is written, None if nothing is."""
    try:
        parsed = make_url(expand_variables(url))
    except (ArgumentError, ValueError):
        return f"must be a URL such as postgresql+psycopg2://USER:$PASSWORD@HOST/NAME, got {hide_password(url)!r}"
    if re.search(r"://[^/@]*:[^$@/][^@]*@", url):
        return (
            "must hold no password, for it goes into files that are handed over; write $NAME, a variable of the environment"
        )
    if parsed.get_backend_name() == "sqlite" and not (parsed.database or "").startswith("/"):
        return f"must name a file by its absolute path, sqlite:////HOME/ME/studies.db, got {url!r}"
    return None
