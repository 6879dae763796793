"""Which way up a frontal film stands, and whether it is a negative: one template of 12 x 12 weights, numpy only.

A film turned by k quarter turns, or inverted, is the same film under a symmetry of the square or of the grey scale, so
one template serves all eight classes: it is held against the film turned back and inverted back. Grey levels count by
rank, so that windows and gamma make no difference. ``tools/fit_film_pose.py`` fits the template and measures it
(docs/robustness.md).
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Cells of the template along a side.
GRID = 12
#: Probability of a pose from which it is acted upon.
SURE = 0.9
#: More pixels a cell's side than this tell nothing new.
_CELL_PX = 8


class Pose(NamedTuple):
    """How a film most likely stands.

    Attributes:
        quarter_turns: by which the upright film was turned counter-clockwise, 0 to 3.
        is_negative: dense tissue is dark.
        probability: of this pose among the eight, by the template.
    """

    quarter_turns: int
    is_negative: bool
    probability: float

    @property
    def is_sure(self) -> bool:
        """Return whether the template leaves little doubt."""
        return self.probability >= SURE


def estimate_pose(grey_YX: NDArray[np.uint8]) -> Pose:
    """Return the likeliest pose of a frontal chest film; mirrored films count as upright.

    Args:
        grey_YX: (Y, X), any size.
    """
    return pose_of_ranks(rank_grid(grey_YX), _template())


def pose_of_ranks(ranks_RR: NDArray[np.float64], template_RR: NDArray[np.float64]) -> Pose:
    """Return the pose by a template; both (GRID, GRID)."""
    scores = np.array([np.sum(np.rot90(ranks_RR, -turns) * template_RR) for turns in range(4)])
    logits = np.concatenate([scores, -scores])
    best = int(np.argmax(logits))
    probability = 1.0 / float(np.exp(logits - logits[best]).sum())
    return Pose(best % 4, best >= 4, probability)


def rank_grid(grey_YX: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the film as GRID x GRID ranks of mean grey, -0.5 (darkest) to 0.5; equal cells share their mean rank."""
    steps = [max(1, extent // (GRID * _CELL_PX)) for extent in grey_YX.shape]
    sparse = Image.fromarray(grey_YX[:: steps[0], :: steps[1]].astype(np.float32))
    cells = np.asarray(sparse.resize((GRID, GRID), Image.Resampling.BOX))
    _, inverse, counts = np.unique(cells, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts + 1) / 2
    ranks: NDArray[np.float64] = mean_ranks[inverse].reshape(GRID, GRID) / (GRID * GRID - 1) - 0.5
    return ranks


@cache
def _template() -> NDArray[np.float64]:
    text = files("chexmix_cli").joinpath("assets/film_pose.json").read_text(encoding="utf-8")
    return np.array(json.loads(text)["template"])
