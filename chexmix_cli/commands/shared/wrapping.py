"""Text and tables that fit a terminal: lines end between words, never inside one. Nothing here for pipes and files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from typing import TextIO

_USUAL = 80
_GAP = 2


def terminal_width(stream: TextIO) -> int | None:
    """Return the columns of the terminal that a stream is; None if it is none."""
    if not stream.isatty():
        return None
    stated = os.environ.get("COLUMNS", "")
    if stated.isdigit() and int(stated):
        return int(stated)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except OSError:
        return _USUAL


class LineBreaker:
    """Breaks text that comes in pieces; a word is given out when it is known to be whole.

    Args:
        width: of a line, in letters; a longer word has a line of its own, uncut.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._begin_line()

    def feed(self, text: str) -> str:
        """Return what can be shown with this piece."""
        shown = []
        for token in re.findall(r"\n|[^\S\n]+|\S+", text):
            if token == "\n":
                shown += [self._close_word(), token]
                self._begin_line()
            elif token.isspace():
                shown.append(self._close_word())
                self._space += token
            else:
                self._word += token
        return "".join(shown)

    def _begin_line(self) -> None:
        self._word = self._space = self._indent = ""
        self._column = 0

    def _close_word(self) -> str:
        word, space = self._word, self._space
        if not word:
            return ""
        self._word = self._space = ""
        if not self._column:
            self._indent = space
        elif self._column + len(space) + len(word) > self._width:
            self._column = len(self._indent) + len(word)
            return f"\n{self._indent}{word}"
        self._column += len(space) + len(word)
        return space + word


def wrapped(text: str, stream: TextIO) -> str:
    """Return text as lines for a stream: broken where it is a terminal, else as it is."""
    width = terminal_width(stream)
    return text if width is None else LineBreaker(width).feed(f"{text}\n").removesuffix("\n")


def draw_table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Return rows under their headings; columns of whole numbers stand to the right.

    Args:
        columns: headings.
        rows: a cell for each.
        width: in letters; default: of the terminal. A table that cannot be so narrow without cutting words is written
            row by row instead, a line for each cell.
    """
    width = shutil.get_terminal_size().columns if width is None else width
    table = [list(columns), *(list(row) for row in rows)]
    widest = [max(_longest(row[place].split("\n")) for row in table) for place in range(len(columns))]
    least = [max(_longest(row[place].split()) for row in table) for place in range(len(columns))]
    spare = width - _GAP * (len(columns) - 1) - sum(least)
    if spare < 0:
        return "\n\n".join(_stacked(columns, row, width) for row in rows)
    wanted = sum(widest) - sum(least)
    # What is left goes where text is, each column its share.
    share = 1.0 if wanted <= spare else spare / wanted
    widths = [low + int((high - low) * share) for low, high in zip(least, widest, strict=True)]
    is_number = [bool(rows) and all(row[place].lstrip("-").isdigit() for row in rows) for place in range(len(columns))]
    lines = []
    for row in table:
        cells = [LineBreaker(size).feed(f"{cell}\n").split("\n")[:-1] for cell, size in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            placed = [
                part.rjust(size) if right else part.ljust(size)
                for part, size, right in zip(parts, widths, is_number, strict=True)
            ]
            lines.append((" " * _GAP).join(placed).rstrip())
    return "\n".join(lines)


def _stacked(columns: Sequence[str], row: Sequence[str], width: int) -> str:
    cells = [f"{name}: {cell}" if name else cell for name, cell in zip(columns, row, strict=True) if cell]
    # Behind the first, which names the row, indented: continued lines keep it.
    lines = [f"{'  ' if place else ''}{line}" for place, cell in enumerate(cells) for line in cell.split("\n")]
    return LineBreaker(width).feed("\n".join(lines) + "\n").removesuffix("\n")


def _longest(parts: Sequence[str]) -> int:
    return max(map(len, parts), default=0)
