"""Tables as text, for a terminal."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence


def draw_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their headings, as wide as the terminal; columns of whole numbers stand to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        is_number = bool(rows) and all(row[number].lstrip("-").isdigit() for row in rows)
        table.add_column(column, overflow="fold", justify="right" if is_number else "left")
    for row in rows:
        # As text, not as rich's markup: an id may look like it.
        table.add_row(*(Text(cell) for cell in row))
    drawn = io.StringIO()
    Console(file=drawn, width=shutil.get_terminal_size().columns, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in drawn.getvalue().rstrip("\n").split("\n"))
