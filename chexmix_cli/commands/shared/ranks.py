"""One training command as one of several processes: which of them speaks, and how all of them end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from chexmix_cli.core.runtime import determinism

if TYPE_CHECKING:
    import torch

    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.commands.shared.options import RunOptions
    from chexmix_cli.core.settings.training import LoopSettings

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
