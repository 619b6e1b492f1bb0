"""`hardcell status --watch`: the state of a run, looked at again and again from another terminal."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from nas.cli.tables import open_console, print_status
from nas.runs.status import status_of

if TYPE_CHECKING:
    from pathlib import Path


def watch_status(run: Path, every: float, *, as_json: bool = False) -> None:
    """Shows a run's state every so many seconds until no process works on it: on a terminal, each in the last one's place.

    Raises:
        HardcellError: there is no run in the folder, or its config or study is damaged.
    """
    console = open_console()
    if as_json or not console.is_terminal:
        while True:
            found = status_of(run)
            if as_json:
                click.echo(json.dumps(found))
            else:
                print_status(found, console)
            if found["state"] != "running":
                return
            time.sleep(every)
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            found = status_of(run)
            page = Console(width=console.width, height=console.height, force_terminal=True)
            with page.capture() as text:
                print_status(found, page)
            live.update(Text.from_ansi(text.get()), refresh=True)
            if found["state"] != "running":
                return
            time.sleep(every)
