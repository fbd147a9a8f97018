"""Tables: fitted to a terminal, and at their full width elsewhere, so that other programs can read them."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nekko.cli.exits import one_line

UNLIMITED_COLUMNS = 1 << 16


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their heads. Cells are shown as they are, without markup and control characters."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else UNLIMITED_COLUMNS)
    table = Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console.print(table)
