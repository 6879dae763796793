"""``chexmix evaluate classification``: a probe fitted on train rows, a head, or predictions, against the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.evaluate.output import Delivery, Html, Out, Plots, Split, deliver
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, RunOptions
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.core.data.manifest import ManifestRow
    from chexmix_cli.core.evals.classification.protocol import DrawRow, Embed, SplitImages
    from chexmix_cli.core.evals.result import Evaluation
    from chexmix_cli.core.infer.classification.heads import Head
    from chexmix_cli.core.infer.manifest_images import StoredCodes
    from chexmix_cli.core.settings.classification import EvaluateClassificationSettings
    from chexmix_cli.library.opened import OpenModel

#: Longer side of a radiograph on the page.
_THUMBNAIL_PX = 192

Predictions = Annotated[
    str | None,
    typer.Argument(metavar="PRED", help="Records of chexmix classify, or - for stdin. Default: a probe is fitted."),
]
Manifest = Annotated[
    Path, typer.Option("--manifest", metavar="FILE", help="JSON Lines with labels and splits.", show_default=False)
]
Ratios = Annotated[
    str | None,
    typer.Option("--mask-ratios", metavar="R,R", help="Also with shares of the image masked, such as 0,0.2,0.4."),
]
TokenShards = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="SHARDS", help="Take the images' codes from token shards instead of encoding."),
]
HeadFile = Annotated[Path | None, typer.Option("--head", metavar="FILE", help="Evaluate this head; nothing is fitted.")]


@command(EvaluateClassificationSettings, *MODEL, "seed", "is_json")
def evaluate_classification(
    call: Call[EvaluateClassificationSettings],
    predictions: Predictions = None,
    *,
    manifest: Manifest,
    mask_ratios: Ratios = None,
    head: HeadFile = None,
    tokens: TokenShards = None,
    split: Split = None,
    out: Out = None,
    html: Html = None,
    plots: Plots = None,
) -> int:
    """Measure the classification of findings: AUROC, AUPRC, F1 and calibration, by label, with 95 % intervals.

    Without predictions, linear probes are fitted on embeddings of the manifest's train rows (all choices by
    cross-validation over patients). With --mask-ratios, AUROC while tokens are masked, beside a pixel baseline.

    Examples:

        chexmix evaluate classification --manifest films.jsonl --mask-ratios 0,0.2,0.4,0.6,0.8 --html page.html

        chexmix evaluate classification --manifest films.jsonl --tokens shards --set probe.grid=4

        chexmix classify - < films.jsonl | chexmix evaluate classification - --manifest films.jsonl
    """
    ratios = _ratios(mask_ratios)
    if predictions is not None and (ratios or head is not None or tokens is not None):
        others = "--mask-ratios, --head or --tokens"
        raise SettingsError(f"predictions stand beside {others}", where="PRED", expected="one of them")
    settings = call.settings
    if predictions is not None:
        evaluation = _of_predictions(predictions, manifest, split, settings, with_cases=html is not None)
    else:
        evaluation = _of_model(
            call.options, settings, manifest, split, head, ratios, tokens, with_cases=html is not None
        )
    return deliver(
        evaluation, Delivery(out=out, html=html, plots=plots, is_json=call.options.is_json, console=call.console)
    )


def _ratios(text: str | None) -> list[float]:
    if text is None:
        return []
    problem = SettingsError(f"{text!r}", where="--mask-ratios", expected="numbers in 0..1, with commas")
    try:
        ratios = {float(part) for part in text.split(",")}
    except ValueError:
        raise problem from None
    if not all(0 <= ratio <= 1 for ratio in ratios):
        raise problem
    return sorted(ratios)


def _of_predictions(
    predictions: str,
    manifest: Path,
    split: str | None,
    settings: EvaluateClassificationSettings,
    *,
    with_cases: bool,
) -> Evaluation:
    from chexmix_cli.commands.evaluate.output import evaluation_rows, failed_items
    from chexmix_cli.core.evals.classification.predictions import match_predictions
    from chexmix_cli.core.evals.classification.protocol import evaluate_predictions

    name, rows = evaluation_rows(manifest, split)
    where = "stdin" if predictions == "-" else Path(predictions).name
    found = match_predictions(_lines(predictions), rows, where)
    picture = _picture(settings) if with_cases else None
    evaluation = evaluate_predictions(found.rows, found.names, found.prob_RK, settings, picture)
    return replace(
        evaluation,
        data={"split": name, **evaluation.data},
        failed=failed_items(found.failed),
    )


def _lines(predictions: str) -> Iterator[str]:
    if predictions == "-":
        import sys

        yield from sys.stdin
        return
    try:
        with Path(predictions).open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(Reason.NOT_FOUND, f"cannot be read ({error})", where=Path(predictions).name) from None


def _of_model(
    run: RunOptions,
    settings: EvaluateClassificationSettings,
    manifest: Path,
    split: str | None,
    head_file: Path | None,
    ratios: list[float],
    tokens: Path | None,
    *,
    with_cases: bool,
) -> Evaluation:
    from chexmix_cli.commands.evaluate.output import evaluation_rows, failed_items
    from chexmix_cli.core.evals.classification.protocol import (
        ClassificationProtocol,
        evaluate_head,
        evaluate_probe,
    )
    from chexmix_cli.core.infer.embeddings import require_grid

    name, rows = evaluation_rows(manifest, split)
    model = run.open_model(settings.input)
    num_layers = model.weights.settings.decoder.num_layers
    require_grid(settings.probe.grid, model.weights.settings.vocabulary, "probe.grid")
    head = None if head_file is None else _head(head_file, model)
    protocol = ClassificationProtocol(
        settings=settings,
        seed=run.seed,
        fingerprint=model.weights.fingerprint,
        layers=_layers(settings.probe.layers, num_layers),
        ratios=ratios,
        picture=_picture(settings) if with_cases else None,
    )
    facts: dict[str, Any] = {"split": name}
    read = partial(_films, model=model, console=run.console, settings=settings, stored=_stored(tokens, model))
    if head is not None:
        films, failed = read(rows, with_pixels=False, label="evaluated images")
        evaluation = evaluate_head(films, _embed(model, run.console, settings.batch_size, head.grid), head, protocol)
    else:
        train_rows = _train_rows(manifest, settings, run.seed, is_sweep=bool(ratios))
        facts["train_rows"] = len(train_rows)
        train, train_failed = read(train_rows, with_pixels=bool(ratios), label="train images")
        films, failed = read(rows, with_pixels=bool(ratios), label="evaluated images")
        failed = [*train_failed, *failed]
        evaluation = evaluate_probe(
            train, films, _embed(model, run.console, settings.batch_size, settings.probe.grid), protocol
        )
    return replace(
        evaluation,
        model=_model_facts(model, run.seed),
        data={**facts, **evaluation.data},
        failed=failed_items(failed),
        missing=_missing(ratios, head),
    )


def _stored(folder: Path | None, model: OpenModel) -> StoredCodes | None:
    from chexmix_cli.core.infer.manifest_images import StoredCodes

    if folder is None:
        return None
    return StoredCodes.open(folder, codebook_hash=model.weights.codebook_hash, preset_hash=model.preset.hash)


def _layers(wanted: Sequence[int], num_layers: int) -> list[int]:
    if any(layer > num_layers for layer in wanted):
        raise SettingsError(f"is {list(wanted)}", where="probe.layers", expected=f"some of 0..{num_layers}")
    return list(wanted) or list(range(1, num_layers + 1))


def _head(path: Path, model: OpenModel) -> Head:
    from chexmix_cli.core.infer.classification.heads import Head

    head = Head.load(path)
    head.require_model(model.weights.fingerprint, str(path))
    return head


def _train_rows(
    manifest: Path, settings: EvaluateClassificationSettings, seed: int, *, is_sweep: bool
) -> list[ManifestRow]:
    from chexmix_cli.core.data.manifest import read_manifest
    from chexmix_cli.core.evals.classification.items import drawn_rows

    rows = list(read_manifest(manifest, split="train"))
    if not rows:
        raise DataError(
            Reason.NOT_FOUND,
            "no row of split train",
            where=manifest.name,
            expected="rows to fit a probe on",
            hint="--head FILE evaluates a head that is there",
        )
    return drawn_rows(rows, settings.fit.sweep_rows if is_sweep else settings.fit.rows, seed)


def _films(
    rows: Sequence[ManifestRow],
    *,
    model: OpenModel,
    console: Console,
    settings: EvaluateClassificationSettings,
    stored: StoredCodes | None,
    with_pixels: bool,
    label: str,
) -> tuple[SplitImages, list[tuple[str, DataError]]]:
    """Return images with codes, and what could not be read."""
    import numpy as np

    from chexmix_cli.core.evals.classification.pixel_baseline import small_pixels
    from chexmix_cli.core.evals.classification.protocol import SplitImages
    from chexmix_cli.core.infer.manifest_images import encode_rows

    grid_size = model.weights.settings.grid_size
    kept: list[NDArray[np.float32]] = []

    def keep(pixels_CYX: NDArray[np.float32]) -> None:
        kept.append(small_pixels(pixels_CYX, settings.sweep.baseline_side_px, grid_size))

    with console.progress(label) as move:
        encoded = encode_rows(
            rows,
            model.images,
            model.preset,
            settings.input,
            progress=move,
            on_pixels=keep if with_pixels else None,
            stored=stored,
        )
    if not encoded.rows:
        first = encoded.failed[0][1]
        raise DataError(first.reason, f"none of {len(rows)} {label} can be used", hint=str(first))
    return SplitImages(
        rows=encoded.rows, codes_RP=encoded.codes_NP, pixels_RYX=np.stack(kept) if kept else None
    ), encoded.failed


def _embed(model: OpenModel, console: Console, batch_size: int, grid: int) -> Embed:
    from chexmix_cli.core.infer.embeddings import embed_codes

    decoder = model.decoder
    vocabulary = model.weights.settings.vocabulary

    def embed(codes_RP: Any, layers: Sequence[int], is_masked_RP: Any, what: str) -> Any:
        with console.progress(what) as move:
            return embed_codes(
                decoder,
                vocabulary,
                codes_RP,
                layers=layers,
                grid=grid,
                batch_size=batch_size,
                is_masked_NP=is_masked_RP,
                progress=move,
            )

    return embed


def _picture(settings: EvaluateClassificationSettings) -> DrawRow:
    """Return the function that draws a row's radiograph, small, for the page."""
    import io

    from chexmix_cli.core.data.images.load import load_image
    from chexmix_cli.core.data.sources import Source

    def draw(row: ManifestRow) -> bytes | None:
        try:
            image = load_image(Source(row.file), "voi", settings.input).image.convert("L")
        except DataError:  # it is listed where it failed
            return None
        image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        written = io.BytesIO()
        image.save(written, format="PNG")
        return written.getvalue()

    return draw


def _model_facts(model: OpenModel, seed: int) -> dict[str, Any]:
    return {
        "name": model.weights.name,
        "fingerprint": model.weights.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "preset": model.preset.intensity,
        "preset_hash": model.preset.hash,
        "seed": seed,
    }


def _missing(ratios: list[float], head: Head | None) -> list[dict[str, str]]:
    if not ratios or head is None:
        return []
    return [
        {"what": "probe fitted masked, pixel baseline", "reason": "with --head nothing is fitted"},
    ]
