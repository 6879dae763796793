"""What a head of findings does on rows it was not fitted on, to be kept with it. N images, K findings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from chexmix_cli.core.evals.bootstrap import bootstrap, group_numbers, percentile_intervals
from chexmix_cli.core.infer.heads import Validation

_RESAMPLES, _SEED = 1000, 0


def validate_findings(
    names: Sequence[str],
    logit_NK: NDArray[np.floating[Any]],
    target_NK: NDArray[np.floating[Any]],
    patients: Sequence[str],
) -> dict[str, Validation]:
    """Return the AUROC of each finding with its 95 % interval by patient.

    Args:
        names: the K findings.
        logit_NK: any scores that rank the images.
        target_NK: 1 present, 0 absent, NaN not counted.
        patients: of the N images.
    """
    group_N = group_numbers(patients)
    found: dict[str, Validation] = {}
    for name, logit_N, target_N in zip(names, logit_NK.T, target_NK.T, strict=True):
        counts_N = ~np.isnan(target_N)
        ranking = partial(_auroc, target_N[counts_N].astype(np.int64), logit_N[counts_N])
        positives = int(target_N[counts_N].sum())
        value = float(ranking(np.arange(counts_N.sum()))[0])
        interval = None
        if not np.isnan(value):
            drawn_R1 = bootstrap(group_N[counts_N], ranking, resamples=_RESAMPLES, seed=_SEED)
            interval = percentile_intervals(drawn_R1)[0]
        found[name] = Validation(
            auroc=None if np.isnan(value) else value,
            interval=interval,
            positives=positives,
            negatives=int(counts_N.sum()) - positives,
        )
    return found


def _auroc(
    label_N: NDArray[np.int64], score_N: NDArray[np.floating[Any]], index_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    drawn_N = label_N[index_N]
    has_both = 0 < drawn_N.sum() < len(drawn_N)
    return np.array([roc_auc_score(drawn_N, score_N[index_N]) if has_both else np.nan])
