"""`hardcell status --watch`: the state of a run, refreshed until the run ends."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from nas.cli.tables import open_console, print_status
from nas.runs.status import run_status

if TYPE_CHECKING:
    from pathlib import Path


def watch_status(run: Path, every: float, *, as_json: bool = False, trust: bool = False) -> None:
    """Shows the state of a run repeatedly until no process works on the run; on a terminal, a view replaces the one before.

    Args:
        run: Folder of the run.
        every: Seconds between two refreshes.
        as_json: Print one JSON object a line instead of tables.
        trust: As for `run_status`.

    Raises:
        HardcellError: the folder holds no run, or its config or study is damaged.
    """
    console = open_console()
    if as_json or not console.is_terminal:
        while True:
            status = run_status(run, trust=trust)
            if as_json:
                click.echo(json.dumps(status.as_record()))
            else:
                print_status(status, console)
            if status.state != "running":
                return
            time.sleep(every)
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            status = run_status(run, trust=trust)
            page = Console(width=console.width, height=console.height, force_terminal=True)
            with page.capture() as text:
                print_status(status, page)
            live.update(Text.from_ansi(text.get()), refresh=True)
            if status.state != "running":
                return
            time.sleep(every)
