"""What a linear model reads off raw pixels: principal components, then one logistic regression a label.

Two uses: whether labels survive an image tokenizer's round trip, and the plainest baseline of a classifier. Shape
letters: N images, X pixel features, L labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chexmix_cli.core.errors import ShapeError

#: Principal components kept, at most.
_COMPONENTS = 50
#: Inverse strength of the L2 penalty on standardised components.
_PENALTY = 0.05
#: A label takes part with at least this many images of either class in train, and half as many in test.
MIN_OF_A_CLASS = 8


def usable_labels(train_NL: NDArray[np.float32], test_NL: NDArray[np.float32]) -> list[int]:
    """Return the columns with enough images of both classes in both parts."""
    parts = ((train_NL, MIN_OF_A_CLASS), (test_NL, MIN_OF_A_CLASS // 2))
    return [
        column
        for column in range(train_NL.shape[1])
        if all(int((part[:, column] == value).sum()) >= least for part, least in parts for value in (0, 1))
    ]


def probe_auroc(
    train_NX: NDArray[np.float32],
    train_NL: NDArray[np.float32],
    test_NX: NDArray[np.float32],
    test_NL: NDArray[np.float32],
    *,
    seed: int,
) -> dict[int, float]:
    """Return the AUROC of each usable label on the test part, by column.

    Everything (components, scales, weights) is fitted on the train part alone; that no patient is in both is the
    caller's to see to. Images whose label is NaN are left out of that label.

    Args:
        train_NX, test_NX: pixel features.
        train_NL, test_NL: labels 1, 0 or NaN.
        seed: of the randomised decomposition.

    Raises:
        ShapeError: if features and labels differ in number.
    """
    for features, labels in ((train_NX, train_NL), (test_NX, test_NL)):
        if len(features) != len(labels):
            raise ShapeError(f"{len(features)} images with {len(labels)} labels", where="pixel probe")
    usable = usable_labels(train_NL, test_NL)
    if not usable:
        return {}
    count = min(_COMPONENTS, len(train_NX) - 1, train_NX.shape[1])
    reduce = make_pipeline(PCA(count, svd_solver="randomized", random_state=seed), StandardScaler())
    train_NX, test_NX = reduce.fit_transform(train_NX), reduce.transform(test_NX)
    result: dict[int, float] = {}
    for column in usable:
        is_train, is_test = ~np.isnan(train_NL[:, column]), ~np.isnan(test_NL[:, column])
        probe = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=1000)
        probe.fit(train_NX[is_train], train_NL[is_train, column])
        scores = probe.decision_function(test_NX[is_test])
        result[column] = float(roc_auc_score(test_NL[is_test, column], scores))
    return result
