"""The option --trust of commands that open bundles and runs."""

from __future__ import annotations

import click

trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Run code that a bundle, a run or a .pt2 file refers to or holds, such as a custom search space. Without --trust, "
    "they are read as data, and nothing in them is imported or unpickled.",
)
