"""``chexmix finetune``: a trained model learns a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import words
from chexmix_cli.commands.shared.ranks import training_process
from chexmix_cli.commands.shared.training_view import TrainingView
from chexmix_cli.core.errors import ExitCode
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
TokenShards = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="SHARDS", help="Take the images' codes from token shards instead of encoding."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.", show_default=False)]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="NAME|DIR|RUN", help="Start weights. Default: the embedded chexmix-mini."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint, or start.")]


@command(resolve_task, "device", "is_json", seed="train.seed", dtype="train.precision")
def finetune(
    call: Call[Any],
    task: Task,
    data: Data,
    out: Out,
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

    settings = call.settings
    with training_process(call.options, settings.train) as (place, console):
        view = TrainingView(console, settings.train.steps, is_json=call.options.is_json)
        try:
            is_done = run_finetune(
                settings,
                data=FinetuningData(data, tokens),
                out=out,
                init=init,
                resume=resume,
                device=place,
                report=view.report,
                progress=view.progress,
            )
        finally:
            view.close()
        if not is_done:
            console.note(f"stopped; a checkpoint is written. Go on with the same command and --resume (run: {out})")
            return ExitCode.INTERRUPTED
        head = out / "head.safetensors"
        is_head = head.exists()
        console.note(f"done: classify --head {head}" if is_head else f"done: {out / 'model'} works as --weights")
    return 0
