"""What the commands print: progress and logs to standard error, results to standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def progress_console() -> Console:
    """Returns the console for progress and notes: standard error."""
    return Console(stderr=True, highlight=False)


def note(message: str) -> None:
    """Prints one line about what is going on to standard error."""
    progress_console().print(message, soft_wrap=True, markup=False)


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table to standard output; columns after the first are right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if i else "left",
            overflow="fold",
            no_wrap=not i and max(map(len, (row[0] for row in rows)), default=0) <= 32,
        )
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def metric_text(value: float) -> str:
    """Formats a metric for a table."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4f}"
