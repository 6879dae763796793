"""What people see of a training run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chexmix_cli.commands.shared.console import format_figures

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.console import Console

#: In a record besides the task's own figures.
_ABOUT = ("step", "learning_rate", "grad_norm", "order", "examples_per_s", "best")


class TrainingView:
    """Shows preparation, metrics records and remarks on stderr.

    Args:
        console: of the command.
        steps: of the whole run.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps = console, steps
        self._live: Any = None
        self._bar: Any = None
        self._bar_task: Any = None
        self._train: dict[str, Any] = {}
        self._val: dict[str, Any] = {}
        self._best: dict[str, Any] = {}

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far the preparation of data is."""
        if self._console.shows_progress:
            self._move(what, done, total)
        elif done == total:
            self._console.note(f"{what}: {total}")

    def report(self, record: dict[str, Any]) -> None:
        """Show one metrics record or remark."""
        if not self._console.shows_progress:
            figures = {name: value for name, value in record.items() if name != "order"}
            self._console.note(record.get("remark") or format_figures(figures))
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

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
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
        about = {name: self._train[name] for name in _ABOUT[1:5] if name in self._train and name != "order"}
        return Group(self._bar, table, Text(format_figures(about)))
