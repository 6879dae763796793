"""What people see on stderr: errors, notices, progress, tables. Bars on a terminal only; colour never has a meaning."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chexmix_cli.commands.shared.wrapping import draw_table, terminal_width, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable


def print_error(message: str, hint: str | None = None) -> None:
    """Print ``error: ...`` and, on a line of its own, ``hint: ...`` on stderr."""
    print(wrapped(f"error: {message}", sys.stderr), file=sys.stderr)
    if hint:
        print(wrapped(f"hint: {hint}", sys.stderr), file=sys.stderr)


class _Lines(logging.Formatter):
    """Messages of the log as lines of stderr."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return wrapped(super().format(record), sys.stderr)


@dataclass(frozen=True, slots=True)
class Console:
    """The stderr side of one command.

    Attributes:
        is_quiet: nothing but errors.
        is_verbose: log messages of the library at INFO.
    """

    is_quiet: bool
    is_verbose: bool

    @property
    def shows_progress(self) -> bool:
        """Return whether progress bars are drawn: not where lines cannot be written over."""
        return sys.stderr.isatty() and not self.is_quiet and os.environ.get("TERM") != "dumb"

    def start_logging(self) -> None:
        """Send the library's log to stderr: warnings, with ``-v`` also information."""
        logger = logging.getLogger("chexmix")
        logger.handlers.clear()
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Lines("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if self.is_verbose else logging.ERROR if self.is_quiet else logging.WARNING)

    def note(self, message: str) -> None:
        """Print one message on stderr unless quiet."""
        if not self.is_quiet:
            print(wrapped(message, sys.stderr), file=sys.stderr)

    def table(self, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Print a table on stderr unless quiet: drawn on a terminal, tab-separated lines elsewhere."""
        if self.is_quiet:
            return
        width = terminal_width(sys.stderr)
        if width is None or os.environ.get("TERM") == "dumb":
            for row in rows:
                print("\t".join(row), file=sys.stderr)
            return
        print(f"\n{title}\n\n{draw_table(columns, rows, width)}\n", file=sys.stderr)

    @contextmanager
    def progress(self, label: str, *, among_records: bool = False) -> Iterator[Callable[[int, int | None], None]]:
        """Give a function of (done, in all or None) that moves a bar; it does nothing where no bar is drawn.

        Args:
            label: stands before the bar.
            among_records: records are written while the bar stands, so it is not drawn where they are read.
        """
        if not self.shows_progress or (among_records and sys.stdout.isatty()):
            yield lambda done, total: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        # The bar must leave stdout alone: by default it takes what is written there, the records, to its own stream.
        with Progress(*columns, console=RichConsole(stderr=True), transient=True, redirect_stdout=False) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def format_figures(values: Mapping[str, Any]) -> str:
    """Return ``name value`` pairs on one line, numbers in four significant digits."""
    parts = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """Return seconds, minutes, or hours and minutes."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
