"""What a head of findings does on rows it was not fitted on, to be kept with it. N images, K findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.metrics.binary import RankedScores
from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, group_numbers, percentile_intervals
from chexmix_cli.core.infer.classification.heads import Validation

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
    count = len(patients)
    ranked = RankedScores(logit_NK.astype(np.float64), target_NK.astype(np.float64))
    positives_K, negatives_K = ranked.counts()

    def auroc(index_N: NDArray[np.int64]) -> NDArray[np.float64]:
        return ranked.auroc(np.bincount(index_N, minlength=count).astype(np.float64))

    auroc_K = auroc(np.arange(count))
    drawn_RK = bootstrap(group_numbers(patients), auroc, resamples=_RESAMPLES, seed=_SEED)
    intervals = percentile_intervals(drawn_RK)
    return {
        name: Validation(
            auroc=None if np.isnan(auroc_K[place]) else float(auroc_K[place]),
            interval=intervals[place],
            positives=int(positives_K[place]),
            negatives=int(negatives_K[place]),
        )
        for place, name in enumerate(names)
    }
