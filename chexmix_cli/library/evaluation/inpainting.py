"""Inpainting of a manifest's films under many masks, the model and what it has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.library.evaluation.rows import EvaluationOptions, evaluation_rows, failed_items

if TYPE_CHECKING:
    from chexmix_cli.core.evals.result import Evaluation
    from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings
    from chexmix_cli.library.opened import OpenModel

_DEFAULTS = EvaluationOptions()


def evaluate_model(
    model: OpenModel,
    settings: EvaluateInpaintingSettings,
    manifest: Path,
    split: str | None,
    *,
    options: EvaluationOptions = _DEFAULTS,
) -> Evaluation:
    """Return PSNR and SSIM of fills of a manifest's films, by mask, with classical fills and the codes' ceiling.

    Args:
        model: with image tokenizer and decoder.
        settings: masks, fills, intervals.
        manifest: the films.
        split: that is evaluated; None is ``test``, else ``val``.
        options: seed, cases, progress.

    Raises:
        DataError: if the manifest has no such rows, or none of them can be read.
    """
    from chexmix_cli.core.evals.inpainting.result import chosen_rows, inpainting_evaluation
    from chexmix_cli.core.evals.inpainting.run import InpaintingRun

    seed = options.seed
    chosen_split, rows = evaluation_rows(manifest, split)
    chosen = chosen_rows(rows, settings, seed)
    with options.progress("films") as move:
        collected = InpaintingRun(model.restorer, model.preset, settings, seed).run(chosen, move)
    sample = "all" if len(chosen) == len(rows) else f"seed {seed}"
    return inpainting_evaluation(
        collected,
        settings,
        seed=seed,
        model=_model_fields(model, seed),
        data={"split": chosen_split, "rows": len(rows), "sample": sample},
        failed=failed_items(collected.failed),
    )


def _model_fields(model: OpenModel, seed: int) -> dict[str, Any]:
    return {**model.provenance(seed=seed), "image_dtype": str(model.image_dtype).removeprefix("torch.")}
