"""What a picture shows against what a film can be: the last look, after everything a header said was done.

Bounds lie outside of all 1,089 real films of the development data's val parts (docs/robustness.md has their extremes).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.data.rendering.pose import estimate_pose
from chexmix_cli.core.errors import DataError, Reason

_FEWEST_GREYS = 64
_LARGEST_SHARE = 0.6
#: Greys that count as black and as white.
_BLACK, _WHITE = 8, 247
#: Pearson correlation of pixels with their neighbours, the lesser of both directions: below the first a picture is
#: refused, below the second it is noted.
_NOISE, _ROUGH = 0.5, 0.8
#: Rows that the correlation is taken of.
_NUM_ROWS = 128
_TURNS = {1: "90 degrees counter-clockwise", 2: "180 degrees", 3: "90 degrees clockwise"}


def require_film(image: Image.Image) -> list[str]:
    """Return notes on what makes a picture doubtful as a film, whichever way it stands.

    Raises:
        DataError: ``BLANK`` if it has one value, ``CORRUPT`` if its pixels have nothing to do with their neighbours.
    """
    grey = image.convert("L")
    grey_YX, counts = np.asarray(grey), np.array(grey.histogram())
    num_greys = int(np.count_nonzero(counts))
    if num_greys == 1:
        raise DataError(Reason.BLANK, "every pixel has the same value", expected="a picture with contrast")
    notes = []
    if num_greys < _FEWEST_GREYS:
        notes.append(f"hardly any grey levels: {num_greys}")
    for name, part in (("black", counts[: _BLACK + 1]), ("white", counts[_WHITE:])):
        share = part.sum() / grey_YX.size
        if share > _LARGEST_SHARE:
            notes.append(f"{share:.0%} of the picture is {name}")
    correlation = neighbour_correlation(grey_YX)
    if correlation < _NOISE:
        raise DataError(
            Reason.CORRUPT,
            f"the picture is noise: neighbouring pixels correlate by {correlation:.2f}",
            expected=f"{_NOISE} or more, a film has 0.9",
        )
    if correlation < _ROUGH:
        notes.append(f"close to noise: neighbouring pixels correlate by {correlation:.2f}")
    return notes


def pose_notes(image: Image.Image) -> list[str]:
    """Return a note if a frontal film most likely lies on its side, stands on its head or is a negative."""
    pose = estimate_pose(np.asarray(image.convert("L")))
    if not pose.is_sure:
        return []
    notes = [f"likely rotated by {_TURNS[pose.quarter_turns]}"] if pose.quarter_turns else []
    return [*notes, "likely a negative: dense tissue is dark"] if pose.is_negative else notes


def neighbour_correlation(grey_YX: NDArray[np.uint8]) -> float:
    """Return the Pearson correlation of pixels with their neighbours to the right and below, whichever is less.

    Args:
        grey_YX: (Y, X), at least 2 x 2. A direction in which nothing changes counts as 1.
    """
    rows = np.linspace(0, len(grey_YX) - 2, min(_NUM_ROWS, len(grey_YX) - 1)).astype(np.int64)
    upper, lower = grey_YX[rows].astype(np.float64), grey_YX[rows + 1].astype(np.float64)
    return min(_correlation(upper[:, :-1], upper[:, 1:]), _correlation(upper, lower))


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 1.0
