"""What the training commands share: options, one process of several and which of them speaks, and how a run ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.shared.training_view import TrainingView
from chexmix_cli.core.errors import ExitCode
from chexmix_cli.core.runtime import determinism

if TYPE_CHECKING:
    import torch

    from chexmix_cli.commands.shared.command import Call
    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.commands.shared.options import RunOptions
    from chexmix_cli.core.settings.training import LoopSettings

RunFolder = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint, or start.")]

_LOG = logging.getLogger("chexmix")


@contextmanager
def training_process(options: RunOptions, train: LoopSettings) -> Iterator[tuple[torch.device, Console]]:
    """Join the other processes, if torchrun started this one; give the device, and a console silent but on rank 0.

    A precision that is slow on the device is warned of. What is computed is deterministic if the settings say so.
    An error is printed by the process that meets it first; the others end with their exit code and no word.
    """
    from chexmix_cli.core.train import distributed
    from chexmix_cli.core.train.precision import slow_precision

    try:
        timeout = timedelta(minutes=train.timeout_minutes)
        with determinism(train.deterministic), distributed.joined(options.device, timeout) as place:
            console = replace(options.console, is_quiet=options.is_quiet or not distributed.is_main())
            console.start_logging()
            for warning in slow_precision(train.precision, place):
                _LOG.warning(warning)
            yield place, console
    except distributed.PeerError as error:
        raise typer.Exit(error.code) from error


def run_training(call: Call[Any], out: Path, train: Callable[..., bool], done: Callable[[], str]) -> int:
    """Train, show how it goes, and say what came of it.

    Args:
        call: of the command; its settings have ``train``.
        out: folder of the run.
        train: called with ``device``, ``report`` and ``progress``; returns False if the run was stopped before its end.
        done: says what the folder of a run that came to its end is good for.
    """
    settings = call.settings.train
    with training_process(call.options, settings) as (place, console):
        with closing(TrainingView(console, settings.steps, is_json=call.options.is_json)) as view:
            is_done = train(device=place, report=view.report, progress=view.progress)
        if not is_done:
            console.note(f"stopped; a checkpoint is written. Go on with the same command and --resume (run: {out})")
            return ExitCode.INTERRUPTED
        console.note(f"done: {done()}")
    return ExitCode.DONE
