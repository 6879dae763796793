"""``finetune --task classify --method probe``: states once through the frozen decoder, then a logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.probes.linear import ProbeFit, fit_probe
from chexmix_cli.core.evals.probes.validation import validate_findings
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.finetuning import ClassifyFinetuning
from chexmix_cli.core.train.examples.code_cache import Progress
from chexmix_cli.core.train.finetune.classify_task import LabelledSet, require_evaluable
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights import WeightsDir

#: Images that pass the decoder together.
_BATCH = 16


def fit_findings(
    settings: ClassifyFinetuning,
    start: WeightsDir,
    decoder: Decoder,
    names: Sequence[str],
    train: LabelledSet,
    val: LabelledSet,
    progress: Progress,
) -> tuple[ProbeFit, dict[str, float]]:
    """Return the probe of the train split and what it does on the validation split.

    Raises:
        DataError: if no finding has patients enough of both classes.
        TrainingError: if none of those that have them can be evaluated.
    """
    num_layers = decoder.settings.num_layers
    layers = settings.probe.layers or tuple(range(1, num_layers + 1))
    vocabulary = start.settings.vocabulary
    grid = settings.probe.grid
    states = _states(decoder, vocabulary, train, layers, grid, "read train", progress)
    _, patient_N = np.unique(train.patients, return_inverse=True)
    fit = fit_probe(
        states,
        train.target_NL.double().numpy(),
        names,
        patient_N.astype(np.int64),
        settings.probe,
        model=start.fingerprint,
        provenance={"stage": "finetune", "method": "probe", "init": start.fingerprint},
    )
    kept = [list(names).index(label) for label in fit.head.labels]
    require_evaluable(val.target_NL[:, kept])
    layer = fit.head.layer
    val_ND = _states(decoder, vocabulary, val, (layer,), grid, "read val", progress)[layer]
    logit_NL, target_NL = fit.head.logits(val_ND), val.target_NL[:, kept]
    validation = validate_findings(fit.head.labels, logit_NL, target_NL.double().numpy(), val.patients)
    known = [one.auroc for one in validation.values() if one.auroc is not None]
    figures = {"val_auroc": fmean(known)}
    return replace(fit, head=replace(fit.head, validation=validation)), {**figures, "layer": layer}


def _states(
    decoder: Decoder,
    vocabulary: Vocabulary,
    images: LabelledSet,
    layers: Sequence[int],
    grid: int,
    what: str,
    progress: Progress,
) -> dict[int, NDArray[np.float32]]:
    parts = []
    for start in range(0, len(images.ids), _BATCH):
        codes_BP = images.codes_NVP[start : start + _BATCH, 0].tolist()
        parts.append(image_embeddings(decoder, vocabulary, codes_BP, layers=layers, grid=grid).numpy())
        progress(what, min(start + _BATCH, len(images.ids)), len(images.ids))
    state_NLD = np.concatenate(parts)
    return {layer: state_NLD[:, place] for place, layer in enumerate(layers)}
