"""``chexmix pretrain``: the image tokenizer and the two pretraining stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands import options
from chexmix_cli.core.errors import ExitCode

if TYPE_CHECKING:
    from chexmix_cli.commands.console import Console

Stage = Annotated[
    str, typer.Option("--stage", metavar="NAME", help="tokenizer, 1 (next token) or 2 (masked next token).")
]
PresetName = Annotated[str, typer.Option("--preset", metavar="NAME", help="Pretraining preset: mini or debug.")]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="MANIFEST|SHARDS",
        help="JSON Lines, or token shards, with train and val rows.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run.", show_default=False)]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="NAME|DIR|RUN", help="Start weights; stages 1 and 2 need an image tokenizer."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")]


def pretrain(
    stage: Stage,
    data: Data,
    out: Out,
    preset: PresetName = "mini",
    init: Init = None,
    resume: Resume = False,
    config: options.Config = None,
    assignments: options.Assignments = None,
    show_config: options.ShowConfig = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Train one stage from images and reports.

    RUN/model then works as --weights; RUN/metrics.jsonl has the losses.

    Examples:

        chexmix pretrain --stage tokenizer --data films.jsonl --out runs/vq

        chexmix pretrain --stage 1 --data films.jsonl --init runs/vq --out runs/1
    """
    from chexmix_cli.core.settings.training import resolve_stage

    resolved = resolve_stage(stage, preset, options.setting_layers(config, assignments, {}))
    if show_config:
        typer.echo(resolved.to_json())
        return 0
    from chexmix_cli.core.train.pretrain import pretrain as run_pretrain

    console = options.make_console(quiet, verbose)
    view = _View(console, resolved.settings.train.steps)
    done = run_pretrain(
        resolved.settings, data=data, out=out, init=init, resume=resume, report=view.report, progress=view.progress
    )
    view.close()
    if not done:
        console.note(f"stopped; a checkpoint is written. Go on with the same command and --resume (run: {out})")
        return ExitCode.INTERRUPTED
    console.note(f"done: {out / 'model'} works as --weights")
    return 0


class _View:
    """Metrics for people: a live bar with the last figures on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps = console, steps
        self._bar: Any = None
        self._task: Any = None
        self._label = ""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far the preparation of data is."""
        if not self._console.shows_progress:
            if done == total:
                self._console.note(f"{what}: {total}")
            return
        self._show(what, done, total)

    def report(self, record: dict[str, Any]) -> None:
        """Show one metrics record or remark."""
        from chexmix_cli.commands.console import format_figures

        if not self._console.shows_progress:
            self._console.note(record.get("remark") or format_figures(record))
            return
        if "remark" in record:
            self._bar_console().print(record["remark"])
        elif "val_loss" in record:
            self._bar_console().print(format_figures(record))
        else:
            figures = {name: value for name, value in record.items() if name != "step"}
            self._show(f"train  {format_figures(figures)}", record["step"], self._steps)

    def close(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _bar_console(self) -> Any:
        self._show(self._label or "train", None, None)
        return self._bar.console

    def _show(self, label: str, done: int | None, total: int | None) -> None:
        if self._bar is None:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=RichConsole(stderr=True, markup=False), redirect_stdout=False)
            self._bar.start()
            self._task = self._bar.add_task(label, total=total)
        self._label = label
        changes: dict[str, Any] = {"description": label}
        if done is not None:
            changes |= {"completed": done, "total": total}
        self._bar.update(self._task, **changes)
