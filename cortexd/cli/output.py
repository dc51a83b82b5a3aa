"""Tables for people, JSON for programs."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cortexd.sizes import UNITS, size


def print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))  # a name may look like markup
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    console.print(table)


def human_bytes(count: float) -> str:
    return size(count, (*UNITS, "TB"))


def human_seconds(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_memory(memory: dict[str, int]) -> str:
    """Bytes by device."""
    return ", ".join(f"{human_bytes(count)} on {device}" for device, count in memory.items() if count)


def human_time(at: float) -> str:
    """Of seconds since the epoch, as clocks here show it."""
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
