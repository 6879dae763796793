"""``chexmix plan``: whether a command will fit this machine, and how long it will take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.pretrain import PresetName, Stage
from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.console import format_duration
from chexmix_cli.commands.shared.options import MODEL, Bits, words
from chexmix_cli.commands.shared.wrapping import draw_table
from chexmix_cli.core.errors import ExitCode, SettingsError
from chexmix_cli.core.settings.inference import GenerateReportSettings
from chexmix_cli.core.settings.training import resolve_stage

if TYPE_CHECKING:
    from chexmix_cli.core.plan.cards import CardsPlan
    from chexmix_cli.core.plan.measure import Plan
    from chexmix_cli.core.settings.model import ModelSettings

app = typer.Typer(help="Tell whether a command will fit this machine, and how long it will take.")

Data = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="MANIFEST",
        help="The run's manifest: number of films, length of reports.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory", metavar="GIB", min=0.1, help="Plan for this much free memory. Default: what is free here."
    ),
]
ModelPreset = Annotated[
    str | None,
    typer.Option(
        "--model-preset",
        metavar="NAME",
        help="Plan for a model preset in place of weights, such as phi2.",
        autocompletion=words("debug", "mini", "small", "phi2"),
    ),
]

Cards = Annotated[
    str | None,
    typer.Option(
        "--cards",
        metavar="N,N",
        help="Count, without measuring, a step on so many H100 cards each: time, MFU, memory, bytes sent.",
    ),
]

_GIB = 1024**3


@app.command("pretrain")
@command(resolve_stage, "device", "is_json", dtype="train.precision")
def plan_pretrain(
    call: Call[Any],
    stage: Stage,
    preset: PresetName = "mini",
    data: Data = None,
    memory: Memory = None,
    cards: Cards = None,
) -> int:
    """Predict memory and time of a pretraining run. Exit code 0 if it fits, 4 if not.

    A few steps of a smaller model are measured, which takes from some seconds to a minute. With --cards nothing is
    measured; --memory is then that of a card.

    Examples:

        chexmix plan pretrain --stage 1 --preset mini --manifest films.jsonl

        chexmix plan pretrain --stage 1 --preset phi2 --memory 24

        chexmix plan pretrain --stage 1 --preset phi2 --cards 1,8,64
    """
    if cards is not None:
        return _plan_cards(call, stage, cards, data, memory)
    from chexmix_cli.core.plan.pretrain import plan_pretrain as make_plan
    from chexmix_cli.core.runtime import choose_device

    with call.console.progress("measure") as show:
        plan = make_plan(
            call.settings,
            data=data,
            device=choose_device(call.options.device),
            memory_bytes=_bytes(memory),
            name=f"stage {stage}",
            show=show,
        )
    return _show(plan, call.options.is_json)


@app.command("generate-report")
@command(GenerateReportSettings, *MODEL, "is_json")
def plan_reports(
    call: Call[GenerateReportSettings],
    preset: ModelPreset = None,
    memory: Memory = None,
    quantize: Bits = None,
) -> int:
    """Predict memory and time of writing reports. Exit code 0 if it fits, 4 if not.

    Only the settings of weights are read; with --model-preset there need be no weights.

    Examples:

        chexmix plan generate-report --weights runs/2

        chexmix plan generate-report --model-preset phi2 --dtype bfloat16

        chexmix plan generate-report --model-preset phi2 --quantize int4 --memory 8
    """
    from chexmix_cli.core.plan.reports import plan_generate_report
    from chexmix_cli.core.plan.sizes import decoder_parameters
    from chexmix_cli.core.runtime import choose_device, choose_dtype

    options = call.options
    model, target = _model(options.weights, preset), choose_device(options.device)
    count = decoder_parameters(model.decoder, layers=model.decoder.num_layers, rows=model.decoder.num_rows)
    with call.console.progress("measure") as show:
        plan = plan_generate_report(
            model,
            call.settings,
            dtype=choose_dtype(
                options.dtype, target, num_parameters=count, is_quantized=call.settings.quantize is not None
            ),
            image_dtype=choose_dtype(options.dtype, target, num_parameters=0),
            device=target,
            memory_bytes=_bytes(memory),
            show=show,
        )
    return _show(plan, options.is_json)


def _model(weights: str | None, preset: str | None) -> ModelSettings:
    from chexmix_cli.core.settings.load import build, read_preset
    from chexmix_cli.core.settings.model import ModelSettings

    if preset is None:
        from chexmix_cli.core.weights import open_weights

        return open_weights(weights).settings
    if weights is not None:
        raise SettingsError("cannot be combined with --weights", where="--model-preset", expected="one of the two")
    return build(ModelSettings, read_preset("model", preset, flag="--model-preset"))


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * _GIB)


def _plan_cards(call: Call[Any], stage: str, cards: str, data: Path | None, memory: float | None) -> ExitCode:
    from chexmix_cli.core.plan.card import planned_card
    from chexmix_cli.core.plan.cards import plan_cards

    if call.options.device != "auto":
        raise SettingsError("cannot be combined with --device", where="--cards", expected="one of the two")
    card = planned_card()
    if memory is not None:
        card = dataclasses.replace(card, memory_bytes=memory * _GIB)
    plan = plan_cards(call.settings, _numbers(cards), card=card, data=data, name=f"stage {stage}")
    Writer(call.options.is_json).write(plan.record(), _cards_text(plan))
    return ExitCode.DONE if plan.fits else ExitCode.ENVIRONMENT


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(
            f"is {text!r}", where="--cards", expected="numbers above 0 with commas between, such as 1,8"
        )
    return [int(part) for part in parts]


def _cards_text(plan: CardsPlan) -> str:
    """Return a plan of cards as tables, for a terminal."""
    counts = plan.counts
    parts_of_step = dict.fromkeys(name for count in counts for name in count.seconds)
    verdicts = [
        "fits" if count.fits else f"lacks {_size(count.peak_bytes - count.available_bytes)}" for count in counts
    ]
    rows: list[tuple[str, ...]] = [
        ("step", *(f"{count.step_s:.3g} s" for count in counts)),
        *((f"  {name}", *(f"{count.seconds.get(name, 0):.3g} s" for count in counts)) for name in parts_of_step),
        ("MFU", *(f"{count.mfu:.1%}" for count in counts)),
        ("tokens a second", *(f"{count.tokens / count.step_s:,.0f}" for count in counts)),
        ("memory", *(_size(count.peak_bytes) for count in counts)),
        ("", *verdicts),
    ]
    heads = ("cards", *(str(count.cards) for count in counts))
    assumed = [(name, f"{value:g}", plan.card.source[name]) for name, value in plan.card.figures().items()]
    parts = [
        f"{plan.command} on {plan.card.name}, counted",
        draw_table(heads, rows),
        draw_table(("assumed", "", "by"), assumed),
    ]
    return "\n\n".join([*parts, *plan.remarks])


def _show(plan: Plan, is_json: bool) -> ExitCode:
    Writer(is_json).write(plan.record(), _text(plan))
    return ExitCode.DONE if plan.fits else ExitCode.ENVIRONMENT


def _text(plan: Plan) -> str:
    """Return a plan as tables, for a terminal."""
    need, have = plan.peak_bytes, plan.available_bytes
    verdict = "fits" if plan.fits else f"does not fit, by {_size(need - have)}"
    memory = [(name, _size(value)) for name, value in plan.memory.items()]
    times = [(name, format_duration(value)) for name, value in plan.times.items()]
    parts = [
        f"{plan.command}: {verdict}. It needs {_size(need)} at most; there are {_size(have)}.",
        draw_table(("memory", ""), [*memory, ("together", _size(need))]),
        draw_table(("time of", ""), times),
    ]
    if plan.remedies:
        rows: list[tuple[Any, ...]] = [
            (remedy.what, _size(remedy.peak_bytes), "fits" if remedy.peak_bytes <= have else "does not fit")
            for remedy in plan.remedies
        ]
        parts.append(draw_table(("with", "needs", ""), rows))
    return "\n\n".join([*parts, *plan.remarks])


def _size(count: int) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= _GIB else f"{count / 1024**2:.0f} MiB"
