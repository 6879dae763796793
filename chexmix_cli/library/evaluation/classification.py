"""Classification of a manifest: a model's probe or head, or given probabilities, against the labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.library.evaluation.rows import (
    EvaluationOptions,
    ProgressBar,
    evaluation_rows,
    failed_items,
    manifest_ids,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.core.data.manifest import ManifestRow
    from chexmix_cli.core.evals.classification.protocol import DrawRow, Embed, SplitImages
    from chexmix_cli.core.evals.result import Evaluation
    from chexmix_cli.core.infer.classification.heads import Head
    from chexmix_cli.core.infer.manifest_images import StoredCodes
    from chexmix_cli.core.settings.classification import EvaluateClassificationSettings
    from chexmix_cli.library.opened import OpenModel

#: Longer side of a radiograph on the page.
_THUMBNAIL_PX = 192
_DEFAULTS = EvaluationOptions()


def evaluate_given(
    records: Iterable[tuple[str, Mapping[str, Any]]],
    where: str,
    manifest: Path,
    split: str | None,
    settings: EvaluateClassificationSettings,
    *,
    with_cases: bool = False,
) -> Evaluation:
    """Return the result of given probabilities: records of ``chexmix classify``.

    Args:
        records: with ``id`` and ``probabilities``, each with where it stands.
        where: what they come from, for errors.
        manifest: the labels.
        split: that is evaluated; None is ``test``, else ``val``.
        settings: policies, intervals.
        with_cases: draw the films that are most right and most wrong.

    Raises:
        DataError: if records or manifest cannot be read, or nothing matches.
    """
    from chexmix_cli.core.evals.classification.predictions import match_predictions
    from chexmix_cli.core.evals.classification.protocol import evaluate_predictions

    name, rows = evaluation_rows(manifest, split)
    found = match_predictions(records, rows, manifest_ids(manifest), where)
    picture = _picture(settings) if with_cases else None
    evaluation = evaluate_predictions(found.rows, found.names, found.prob_RK, settings, picture)
    return replace(
        evaluation,
        data={"split": name, **evaluation.data},
        failed=failed_items(found.failed),
    )


def evaluate_model(
    model: OpenModel,
    settings: EvaluateClassificationSettings,
    manifest: Path,
    split: str | None,
    *,
    head_file: Path | None = None,
    ratios: Sequence[float] = (),
    tokens: Path | None = None,
    options: EvaluationOptions = _DEFAULTS,
) -> Evaluation:
    """Return how a model classifies the findings of a manifest, by a probe fitted on its train rows or by a head.

    Args:
        model: with image tokenizer and decoder.
        settings: probe, policies, intervals.
        manifest: films and labels.
        split: that is evaluated; None is ``test``, else ``val``.
        head_file: a head to evaluate; nothing is fitted then.
        ratios: shares of the image's tokens that are masked, each a point of the masking curve; empty has none.
        tokens: token shards to take codes from, in place of encoding.
        options: seed, cases, progress.

    Raises:
        DataError: if the manifest has no rows to fit or evaluate, or none of them can be read.
        SettingsError: if the model has no such layer or grid.
    """
    from chexmix_cli.core.evals.classification.protocol import (
        ClassificationProtocol,
        evaluate_head,
        evaluate_probe,
    )
    from chexmix_cli.core.infer.embeddings import require_grid

    name, rows = evaluation_rows(manifest, split)
    num_layers = model.weights.settings.decoder.num_layers
    require_grid(settings.probe.grid, model.weights.settings.vocabulary, "probe.grid")
    head = None if head_file is None else model.load_head(head_file)
    protocol = ClassificationProtocol(
        settings=settings,
        seed=options.seed,
        fingerprint=model.weights.fingerprint,
        layers=_layers(settings.probe.layers, num_layers),
        ratios=list(ratios),
        picture=_picture(settings) if options.with_cases else None,
    )
    facts: dict[str, Any] = {"split": name}
    read = partial(_films, model=model, progress=options.progress, settings=settings, stored=_stored(tokens, model))
    if head is not None:
        films, failed = read(rows, with_pixels=False, label="evaluated images")
        evaluation = evaluate_head(
            films, _embed(model, options.progress, settings.batch_size, head.grid), head, protocol
        )
    else:
        train_rows = _train_rows(manifest, settings, options.seed, is_sweep=bool(ratios))
        facts["train_rows"] = len(train_rows)
        train, train_failed = read(train_rows, with_pixels=bool(ratios), label="train images")
        films, failed = read(rows, with_pixels=bool(ratios), label="evaluated images")
        failed = [*train_failed, *failed]
        evaluation = evaluate_probe(
            train, films, _embed(model, options.progress, settings.batch_size, settings.probe.grid), protocol
        )
    return replace(
        evaluation,
        model=_model_facts(model, options.seed),
        data={**facts, **evaluation.data},
        failed=failed_items(failed),
        missing=_missing(bool(ratios), head),
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
            hint="--head FILE evaluates an existing head",
        )
    return drawn_rows(rows, settings.fit.sweep_rows if is_sweep else settings.fit.rows, seed)


def _films(
    rows: Sequence[ManifestRow],
    *,
    model: OpenModel,
    progress: ProgressBar,
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

    with progress(label) as move:
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


def _embed(model: OpenModel, progress: ProgressBar, batch_size: int, grid: int) -> Embed:
    from chexmix_cli.core.infer.embeddings import embed_codes

    decoder = model.decoder
    vocabulary = model.weights.settings.vocabulary

    def embed(codes_RP: Any, layers: Sequence[int], is_masked_RP: Any, what: str) -> Any:
        with progress(what) as move:
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
            image = load_image(Source.named(row.file), "voi", settings.input).image.convert("L")
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


def _missing(is_masked: bool, head: Head | None) -> list[dict[str, str]]:
    if not is_masked or head is None:
        return []
    return [
        {"what": "probe fitted masked, pixel baseline", "reason": "with --head nothing is fitted"},
    ]
