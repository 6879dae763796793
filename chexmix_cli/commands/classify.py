"""``chexmix classify``: radiographs, or their codes, to probabilities of findings or embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands.records.streams import check_arguments
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, RECORDS, Inputs, Preset, Ray, RecordsOut, RunOptions, Shard
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.classification import ClassifySettings

if TYPE_CHECKING:
    from chexmix_cli.commands.records.share import Place
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.jobs.job import Record

#: Findings named on a terminal, the most probable ones.
_MOST_SHOWN = 5

HeadFile = Annotated[
    Path | None, typer.Option("--head", metavar="FILE", help="Head to use. Default: head.safetensors of the weights.")
]
Embeddings = Annotated[
    bool, typer.Option("--embeddings", help="Give embeddings instead of probabilities; with --head, both.")
]
Layers = Annotated[
    list[int] | None,
    typer.Option("--layer", metavar="L", min=0, help="Layer of the embeddings; may be repeated. Default: all."),
]
Ratio = Annotated[
    float, typer.Option("--mask-ratio", metavar="R", min=0, max=1, help="Mask this share of the image's tokens.")
]
ZeroShotFlag = Annotated[
    bool, typer.Option("--zero-shot", help="Without a head: score sentences that state and deny each finding.")
]


@command(ClassifySettings, *MODEL, "seed", *RECORDS, "html")
def classify(
    call: Call[ClassifySettings],
    inputs: Inputs = None,
    out: RecordsOut = None,
    head: HeadFile = None,
    embeddings: Embeddings = False,
    layer: Layers = None,
    mask_ratio: Ratio = 0.0,
    zero_shot: ZeroShotFlag = False,
    preset: Preset = None,
    shard: Shard = None,
    ray: Ray = None,
) -> int:
    """Give the probability of each finding in each chest radiograph study, or embeddings.

    Inputs are DICOM or image files, folders, globs or zip archives; or, with -, paths, manifest lines or the records of
    `chexmix tokenize` on stdin. A head is made by `chexmix finetune --task classify --method probe`.

    Examples:

        chexmix classify studies/ -o findings.xlsx --paths

        chexmix tokenize studies/ | chexmix classify - --embeddings --layer 4 > embeddings.jsonl
    """
    from chexmix_cli.commands.records.share import take_place

    asked = Asked(head=head, embeddings=embeddings, layers=layer, mask_ratio=mask_ratio, zero_shot=zero_shot)
    asked.check()
    run, place = take_place(call.options, shard, ray, out)
    return _run(check_arguments(inputs), run, call.settings, asked, place)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the flags ask for."""

    head: Path | None
    embeddings: bool
    layers: list[int] | None
    mask_ratio: float
    zero_shot: bool

    def check(self) -> None:
        """Refuse what does not go together."""
        if self.layers and not self.embeddings:
            raise SettingsError("is given without --embeddings", where="--layer", expected="both; a head has its layer")


def _run(inputs: list[str], run: RunOptions, settings: ClassifySettings, asked: Asked, place: Place) -> int:
    from chexmix_cli.commands.records.elsewhere import elsewhere
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.commands.records.record_page import with_films
    from chexmix_cli.commands.records.runner import Loop
    from chexmix_cli.commands.records.share import share_of
    from chexmix_cli.commands.records.sinks import Sinks
    from chexmix_cli.core.weights.files import HEAD_FILE, TYPICAL_FILE
    from chexmix_cli.library.classification import MARK

    make = partial(_Records, run, settings, asked)
    records = make()
    model, origin = records.model, records.classifier.origin
    cluster = elsewhere(place.ray, settings.ray, make, records, {"--html": run.html or place.is_page})
    reader = model.reader(keep_uids=run.keep_uids, with_others=settings.study != "one")
    depends = [asked.head or model.weights.path / HEAD_FILE, model.weights.path / TYPICAL_FILE]
    flags = {name: getattr(asked, name) for name in ("embeddings", "layers", "mask_ratio", "zero_shot")}
    share = share_of("classify", run, settings, model, place.part, depends, **flags)
    with Sinks(run, place.out, command="classify", share=share) as sinks:
        if sinks.is_text:
            run.console.note(MARK)
        if asked.head is not None and origin is not None:
            run.console.note(f"{asked.head.name}: {origin}")
        loop: Loop[Film] = Loop(
            process=with_films(records.process, sinks.page, model.images),
            describe=_describe,
            batch_size=settings.input.batch_size,
            sinks=sinks,
            workers=settings.input.workers,
            elsewhere=cluster,
        )
        return loop.run(film_jobs(inputs, reader, counted=place.counts(run)), "studies").exit_code


class _Records:
    """Findings as records.

    Args:
        run, settings, asked: of the command.
        device: in place of the one asked for.
    """

    def __init__(self, run: RunOptions, settings: ClassifySettings, asked: Asked, device: str | None = None) -> None:
        from chexmix_cli.library.classification import Classifier

        self.model = run.on(device).open_model(settings.input)
        all_layers = range(self.model.weights.settings.decoder.num_layers + 1)
        self.classifier = Classifier(
            self.model,
            settings,
            head=asked.head,
            layers=(asked.layers or all_layers) if asked.embeddings else (),
            mask_ratio=asked.mask_ratio,
            is_zero_shot=asked.zero_shot,
            seed=run.seed,
        )
        self._provenance = run.provenance_of(self.model)

    def process(self, films: list[Film]) -> list[Record]:
        """Return the result fields of a batch, the same in every share and behind every interruption."""
        self.model.forget()
        return [{**found.fields(), **self._provenance} for found in self.classifier(films)]


def _describe(record: Record) -> str:
    """Return a record in one paragraph, for a terminal."""
    lines = [f"{record['id']} ({record.get('view') or 'unknown view'})"]
    if "probabilities" in record:
        ordered = sorted(record["probabilities"].items(), key=lambda pair: -pair[1])
        known = record.get("val_auroc", {})
        for name, value in ordered[:_MOST_SHOWN]:
            auroc = known.get(name)
            lines.append(f"    {value:.3f}  {name}" + ("" if auroc is None else f" (AUROC in validation {auroc:.3f})"))
        if len(ordered) > _MOST_SHOWN:
            lines.append(f"    ({len(ordered) - _MOST_SHOWN} more: --json)")
    if "embeddings" in record:
        size = len(next(iter(record["embeddings"].values())))
        lines.append(f"    embeddings of {size} numbers, layers {', '.join(record['embeddings'])} (--json)")
    return "\n".join([*lines, *(f"    note: {note}" for note in record.get("notes", []))])
