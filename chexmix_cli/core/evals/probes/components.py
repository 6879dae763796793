"""Principal components that features are read by: of pixels, the baseline's, and of a grid's states, a probe's.

N images, X features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA


def principal_components(feature_NX: NDArray[np.floating[Any]], most: int, *, seed: int) -> PCA:
    """Return the first components of train images, fitted: ``most``, or as many as there are.

    Args:
        feature_NX: of the train images alone.
        most: components wanted.
        seed: of the randomised decomposition.
    """
    # N images lie in N - 1 directions about their mean; a further one would be rounding alone.
    count = max(1, min(most, len(feature_NX) - 1, feature_NX.shape[1]))
    return PCA(count, svd_solver="randomized", random_state=seed).fit(feature_NX)
