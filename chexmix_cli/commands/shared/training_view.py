"""What is seen of a training run: a live table on a terminal, plain lines elsewhere, and the records for programs."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from chexmix_cli.commands.shared.console import format_duration, format_figures

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.console import Console

#: In a record besides the task's own figures: what stands below the table, and what does not stand there.
_SHOWN = ("learning_rate", "grad_norm", "examples_per_s", "tokens_per_s", "mfu")
_ABOUT = (*_SHOWN, "step", "order", "best", "left_s")


class TrainingView:
    """Shows preparation, metrics records and remarks on stderr; writes the records to stdout as JSON Lines.

    Args:
        console: of the command.
        steps: of the whole run.
        is_json: write the records where stdout is a terminal too.
    """

    def __init__(self, console: Console, steps: int, *, is_json: bool) -> None:
        self._console, self._steps = console, steps
        self._writes_records = is_json or not sys.stdout.isatty()
        self._live: Any = None
        self._bar: Any = None
        self._bar_task: Any = None
        self._train: dict[str, Any] = {}
        self._val: dict[str, Any] = {}
        self._best: dict[str, Any] = {}
        #: When the run said how many seconds are left, and how many.
        self._left: tuple[float, float] | None = None

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far the preparation of data is."""
        if self._console.shows_progress:
            self._move(what, done, total)
        elif done == total:
            self._console.note(f"{what}: {total}")

    def report(self, record: dict[str, Any]) -> None:
        """Show one metrics record or remark; a record is also data."""
        if self._writes_records and "remark" not in record:
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()
        if not self._console.shows_progress:
            self._console.note(record.get("remark") or _line(record))
            return
        if "remark" in record:
            self._start()
            self._live.console.print(record["remark"])
        elif "best" in record:
            self._val = record
            if record["best"]:
                self._best = record
        else:
            self._train = record
            self._left = (time.monotonic(), record["left_s"])
        self._move("train", max(self._train.get("step", 0), self._val.get("step", 0)), self._steps)

    def close(self) -> None:
        """Leave the last table where it is and stop moving it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start(self) -> None:
        if self._live is not None:
            return
        from rich.console import Console as RichConsole
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        view = self

        class TimeLeft(TimeRemainingColumn):
            """The run's own word where it has one: rich knows steps by the records alone, and those come in bursts."""

            def render(self, task: Any) -> Text:
                if view._left is None or task.finished:
                    return super().render(task)
                said, left_s = view._left
                return Text(format_duration(max(0.0, round(left_s - (time.monotonic() - said)))))

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("left:"),
            TimeLeft(),
        )
        console = RichConsole(stderr=True, markup=False, highlight=False)
        self._bar = Progress(*columns, console=console)
        self._bar_task = self._bar.add_task("", total=None)
        self._live = Live(self._picture(), console=console, refresh_per_second=4, redirect_stdout=False)
        self._live.start()

    def _move(self, label: str, done: int, total: int) -> None:
        self._start()
        task = self._bar.tasks[0]
        if task.description != label:
            # Another thing that is counted: its speed says nothing about the last one's.
            self._bar.reset(self._bar_task, description=label, total=total, completed=done)
        self._bar.update(self._bar_task, completed=done)
        self._live.update(self._picture())

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if not self._train and not self._val:
            return self._bar
        table = Table(box=None, padding=(0, 2, 0, 0))
        best = f"best (step {self._best['step']})" if self._best else "best"
        for column in ("", "train", "validation", best):
            table.add_column(column, justify="left" if not column else "right")
        names = dict.fromkeys(
            name.removeprefix("val_") for record in (self._train, self._val) for name in record if name not in _ABOUT
        )
        for name in names:
            cells = (self._train.get(name), self._val.get(f"val_{name}"), self._best.get(f"val_{name}"))
            table.add_row(name, *("" if value is None else f"{value:.4g}" for value in cells))
        about = {name: self._train[name] for name in _SHOWN if name in self._train}
        return Group(self._bar, table, Text(format_figures(about)))


def _line(record: dict[str, Any]) -> str:
    """Return a record as one line, the time that is left in words."""
    figures = {name: value for name, value in record.items() if name not in ("order", "left_s")}
    left = {"left": format_duration(round(record["left_s"]))} if "left_s" in record else {}
    return format_figures({**figures, **left})
