"""``chexmix finetune``: a trained model learns a task."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import TokenShards, words
from chexmix_cli.commands.shared.training import Resume, RunFolder, run_training
from chexmix_cli.core.settings.finetuning import resolve_task

Task = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="NAME",
        help="report, classify or retrieve.",
        autocompletion=words("report", "classify", "retrieve"),
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="probe, lora or full. Default: the preset's.",
        show_default=False,
        autocompletion=words("probe", "lora", "full"),
    ),
]
PresetName = Annotated[
    str,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Fine-tuning preset: mini, phi2 or debug.",
        autocompletion=words("mini", "phi2", "debug"),
    ),
]
Data = Annotated[
    Path, typer.Option("--manifest", metavar="MANIFEST", help="JSON Lines with train and val rows.", show_default=False)
]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="NAME|DIR|RUN", help="Start weights. Default: the embedded chexmix-mini."),
]


@command(resolve_task, "device", "is_json", seed="train.seed", dtype="train.precision")
def finetune(
    call: Call[Any],
    task: Task,
    data: Data,
    out: RunFolder,
    method: Method = None,
    preset: PresetName = "mini",
    init: Init = None,
    tokens: TokenShards = None,
    resume: Resume = False,
) -> int:
    """Fine-tune a model for reports, classification or retrieval.

    RUN/model then works as --weights; of a probe of findings, RUN/head.safetensors works as --head of classify, with
    the model that it was fitted on. RUN/metrics.jsonl has the losses and the task's own metric.

    Examples:

        chexmix finetune --task classify --method probe --manifest films.jsonl -o head

        chexmix finetune --task report --method lora --manifest films.jsonl --out runs/r
    """
    from chexmix_cli.core.train.finetune.run import FinetuningData
    from chexmix_cli.core.train.finetune.run import finetune as run_finetune

    data_given = FinetuningData(data, tokens)
    train = partial(run_finetune, call.settings, data=data_given, out=out, init=init, resume=resume)
    return run_training(call, out, train, lambda: _use(out))


def _use(run: Path) -> str:
    head = run / "head.safetensors"
    return f"classify --head {head}" if head.exists() else f"{run / 'model'} works as --weights"
