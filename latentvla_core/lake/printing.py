"""An Arrow table on the screen or in a file; text out of files without what steers a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

MOST_NUMBERS, MOST_STRUCTS = 24, 2
"""Values of a list that a cell on the screen shows; files hold all of them."""


def write_table(table: Any, style: str, out: Path | None) -> None:
    """Print an Arrow table, or write it to a file."""
    if style == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, out)
    elif style == "csv":
        _write_csv(table, out)
    else:
        _print_table(table)


def _write_csv(table: Any, out: Path | None) -> None:
    import csv

    stream = sys.stdout if out is None else out.open("w", newline="")
    writer = csv.writer(stream)
    writer.writerow(table.column_names)
    writer.writerows(row.values() for row in table.to_pylist())
    if out is not None:
        stream.close()


def _print_table(table: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(header_style="bold")
    for name in table.column_names:
        shown.add_column(Text(printable(name)))
    for row in table.to_pylist():
        shown.add_row(*(Text(printable(_cell(value))) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(shown)
    console.print(f"{table.num_rows} rows")


def printable(text: str) -> str:
    """Text out of files, without what steers a terminal: control characters are written out."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _cell(value: Any) -> str:
    """One value as text; structs as name=value, long lists and what they hold cut short."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return " ".join(f"{name}={_cell(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        most = MOST_STRUCTS if any(isinstance(v, dict) for v in value) else MOST_NUMBERS
        joint = "; " if most == MOST_STRUCTS else " "
        text = joint.join(_cell(v) for v in value[:most])
        return text if len(value) <= most else f"{text} … ({len(value)})"
    return str(value)
