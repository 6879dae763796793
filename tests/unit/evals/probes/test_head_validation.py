"""What a head does on rows it was not fitted on: against scikit-learn, and where a number is not defined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from chexmix_cli.core.evals.probes.validation import validate_findings


def test_auroc_counts_and_intervals_by_patient():
    rng = np.random.default_rng(0)
    target_NK = rng.integers(0, 2, (200, 2)).astype(np.float64)
    logit_NK = target_NK + rng.normal(size=(200, 2))
    target_NK[::7, 0] = np.nan
    patients = [f"patient {number // 2}" for number in range(200)]
    found = validate_findings(["Edema", "Mass"], logit_NK, target_NK, patients)
    counts_N = ~np.isnan(target_NK[:, 0])
    edema = found["Edema"]
    assert edema.auroc == pytest.approx(roc_auc_score(target_NK[counts_N, 0], logit_NK[counts_N, 0]))
    assert (edema.positives, edema.negatives) == (
        int((target_NK[:, 0] == 1).sum()),
        int((target_NK[:, 0] == 0).sum()),
    )
    low, high = edema.interval
    assert low < edema.auroc < high
    # The same images as patients of their own vary less: an interval by image would be another one.
    assert validate_findings(["Edema", "Mass"], logit_NK, target_NK, [str(n) for n in range(200)])["Edema"] != edema


def test_a_finding_of_one_class_has_counts_and_no_auroc():
    found = validate_findings(["Edema"], np.zeros((3, 1)), np.array([[1.0], [1.0], [np.nan]]), ["a", "b", "c"])
    assert (found["Edema"].auroc, found["Edema"].interval) == (None, None)
    assert (found["Edema"].positives, found["Edema"].negatives) == (2, 0)
