"""What a step did, row by row: one class for the terminal, for JSON and for the HTML report."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def bytes_text(value: float) -> str:
    """Returns a number of bytes in MB or kB.

    Example:
        >>> bytes_text(23_460_000), bytes_text(1_500)
        ('23.5 MB', '1.5 kB')
    """
    return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"


# Heading and format of each column that a report may have; a column that is not here is printed as it is.
_COLUMNS: dict[str, tuple[str, Any]] = {
    "path": ("layer", str),
    "kind": ("kind", str),
    "shape": ("shape", lambda value: " x ".join(str(size) for size in value)),
    "done": ("done", lambda value: "yes" if value else "left alone"),
    "sparsity": ("zeros", lambda value: f"{value:.2%}"),
    "clusters": ("values", str),
    "bits": ("bits a weight", lambda value: f"{value:.2f}"),
    "reason": ("why", str),
    "accuracy": ("accuracy", lambda value: f"{value:.4f}"),
    "difference": ("difference", lambda value: f"{100 * value:+.2f} points"),
    "standard_error": ("standard error", lambda value: f"{100 * value:.2f}"),
    "rmse": ("RMSE", lambda value: f"{value:.4f}"),
    "pearson": ("Pearson", lambda value: f"{value:.4f}"),
    "bits_per_byte": ("bits per byte", lambda value: f"{value:.4f}"),
    "map": ("mAP", lambda value: f"{value:.4f}"),
    "ap50": ("AP50", lambda value: f"{value:.4f}"),
    "ap75": ("AP75", lambda value: f"{value:.4f}"),
    "bytes": ("size", bytes_text),
    "gzip_bytes": ("gzip", bytes_text),
    "latency_ms": ("latency, median", lambda value: f"{value:.2f} ms"),
    "latency_p95_ms": ("95th percentile", lambda value: f"{value:.2f} ms"),
    "max_logit_difference": ("largest logit difference", lambda value: f"{value:.2g}"),
}


@dataclass(frozen=True)
class Report:
    """A table of results with its notes.

    Attributes:
        title: What the table shows.
        rows: One dict a row, all with the same keys; plain Python values only.
        notes: Sentences that belong under the table.

    Example:
        >>> report = Report("Sizes", ({"path": "dense", "sparsity": 0.5},))
        >>> print(report)
        Sizes
        layer │  zeros
        ──────┼───────
        dense │ 50.00%
    """

    title: str
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of the rows, in order."""
        return tuple(self.rows[0]) if self.rows else ()

    @property
    def headings(self) -> tuple[str, ...]:
        """The columns in words, for people."""
        return tuple(_COLUMNS.get(column, (column, str))[0] for column in self.columns)

    def cells(self) -> list[list[str]]:
        """Returns the rows as text, formatted for people."""
        return [[_cell(column, row[column]) for column in self.columns] for row in self.rows]

    def table(self) -> Table:
        """Returns the rows as a rich table, to print on a `rich.console.Console`."""
        table = Table(title=self.title, title_justify="left", title_style="bold", box=box.SQUARE, show_edge=False, pad_edge=False)
        for column, heading in zip(self.columns, self.headings, strict=True):
            numeric = any(isinstance(row[column], int | float) and not isinstance(row[column], bool) for row in self.rows)
            table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
        for cells in self.cells():
            table.add_row(*(escape(cell) for cell in cells))
        return table

    def to_json(self) -> str:
        """Returns title, rows and notes as JSON."""
        return json.dumps({"title": self.title, "rows": [dict(row) for row in self.rows], "notes": list(self.notes)}, ensure_ascii=False)

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=160, color_system=None).print(self.table(), *self.notes, sep="\n")
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    return str(_COLUMNS.get(column, (column, str))[1](value))
