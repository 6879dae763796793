"""``chexmix pretrain``: the image tokenizer and the two pretraining stages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import words
from chexmix_cli.commands.shared.training import Resume, RunFolder, run_training
from chexmix_cli.core.settings.training import resolve_stage

Stage = Annotated[
    str,
    typer.Option(
        "--stage",
        metavar="NAME",
        help="tokenizer, 1 (next token) or 2 (masked next token).",
        autocompletion=words("tokenizer", "1", "2"),
    ),
]
PresetName = Annotated[
    str,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Preset: debug, mini, small or phi2.",
        autocompletion=words("debug", "mini", "small", "phi2"),
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--manifest",
        metavar="MANIFEST|SHARDS",
        help="JSON Lines, or token shards, with train and val rows.",
        show_default=False,
    ),
]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="NAME|DIR|RUN", help="Start weights; stages 1 and 2 need an image tokenizer."),
]


@command(resolve_stage, "device", "is_json", seed="train.seed", dtype="train.precision")
def pretrain(
    call: Call[Any],
    stage: Stage,
    data: Data,
    out: RunFolder,
    preset: PresetName = "mini",
    init: Init = None,
    resume: Resume = False,
) -> int:
    """Train one stage from images and reports.

    RUN/model then works as --weights; RUN/metrics.jsonl and RUN/losses.png have the losses.

    Several processes: torchrun --nproc-per-node N -m chexmix_cli pretrain ..., on each node.

    Examples:

        chexmix pretrain --stage tokenizer --manifest films.jsonl --out runs/vq

        chexmix pretrain --stage 1 --manifest films.jsonl --init runs/vq --out runs/1
    """
    from chexmix_cli.core.train.pretrain.run import pretrain as run_pretrain

    train = partial(run_pretrain, call.settings, data=data, out=out, init=init, resume=resume)
    return run_training(
        call, out, train, lambda: f"{out / 'model'} works as --weights; {out / 'losses.png'} has its losses"
    )
