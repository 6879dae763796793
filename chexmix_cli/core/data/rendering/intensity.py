"""The intensity recipes: from the levels of a picture to 8-bit grey. Tables only; no file, no DICOM. L levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.rendering.levels import percentiles
from chexmix_cli.core.errors import DataError, Reason

Values = NDArray[np.float64]
Counts = NDArray[np.int64]
Table = NDArray[np.uint8]

_PERCENTILES = (0.5, 99.5)
_OFFICIAL_PERCENTILES = (1.0, 99.0)
#: Keeps the released pipeline from dividing by zero; part of its values, since they are cut to integers.
_OFFICIAL_EPSILON = 1e-8


def to_bytes(share_L: Values) -> Table:
    """Return 0..1 as 0..255, rounded; values outside are clipped."""
    table: Table = np.rint(np.clip(share_L, 0.0, 1.0) * 255.0).astype(np.uint8)
    return table


def stretch_percentiles(values_L: Values, counts_L: Counts) -> Table:
    """Return the table from the 0.5th (black) to the 99.5th percentile (white), or minimum to maximum where they meet.

    Raises:
        DataError: ``BLANK`` if all pixels have one value.
    """
    low, high = percentiles(values_L, counts_L, _PERCENTILES)
    if high <= low:
        occurring = values_L[counts_L > 0]
        low, high = float(occurring.min()), float(occurring.max())
    if high <= low:
        raise DataError(Reason.BLANK, "every pixel has the same value", expected="a picture with contrast")
    return to_bytes((values_L - low) / (high - low))


def stretch_official(values_L: Values, counts_L: Counts) -> Table:
    """Return the released pipeline's PNG stretch: 1st to 99th percentile, cut (not rounded) to integers."""
    low, high = percentiles(values_L, counts_L, _OFFICIAL_PERCENTILES)
    share_L = (np.clip(values_L, low, high) - low) / (high - low + _OFFICIAL_EPSILON)
    table: Table = (share_L * 255).astype(np.uint8)
    return table


def recipe_mimic(stored_L: Values, counts_L: Counts, *, is_inverted: bool) -> Table:
    """Return the table of MIMIC-CXR-JPG: stored minimum to 0, maximum to 255 (cut), inverted if need be, equalised.

    Source: MIT-LCP/mimic-cxr issue 16 (the data set's own conversion; JPEG compression left out).
    """
    occurring = stored_L[counts_L > 0]
    span = occurring.max() - occurring.min()
    if span <= 0:
        raise DataError(Reason.BLANK, "every pixel has the same value", expected="a picture with contrast")
    share_L = np.clip((stored_L - occurring.min()) / span, 0.0, 1.0)
    return _equalized((share_L * 255).astype(np.uint8), counts_L, is_inverted)


def recipe_chexpert(stored_L: Values, counts_L: Counts, *, is_inverted: bool) -> Table:
    """Return the table of CheXpert: stored 0 to 0, maximum to 255 (rounded), inverted if need be, equalised.

    Negative values count by their size, as OpenCV's ``convertScaleAbs`` does it, in float32 as there.
    Source: stanfordmlgroup/chexpert-labeler issue 11 (JPEG compression left out).
    """
    top = stored_L[counts_L > 0].max()
    if top <= 0:
        raise DataError(Reason.BLANK, "no pixel is above 0", expected="stored values above 0 for the chexpert preset")
    scaled_L = np.abs(stored_L.astype(np.float32) * np.float32(255.0 / top))
    return _equalized(np.rint(np.minimum(scaled_L, 255)).astype(np.uint8), counts_L, is_inverted)


def _equalized(table_L: Table, counts_L: Counts, is_inverted: bool) -> Table:
    if is_inverted:
        table_L = 255 - table_L
    histogram = np.bincount(table_L, weights=counts_L, minlength=256).astype(np.int64)
    equalized: Table = equalize(histogram)[table_L]
    return equalized


def equalize(histogram: Counts) -> Table:
    """Return the table (256 entries) that OpenCV's ``equalizeHist`` makes of a histogram: its darkest value becomes 0.

    Numerics: float32 products rounded half to even, as there.
    """
    total = int(histogram.sum())
    darkest = int(np.flatnonzero(histogram)[0])
    rest = total - int(histogram[darkest])
    if rest == 0:
        raise DataError(Reason.BLANK, "every pixel has the same value", expected="a picture with contrast")
    above = np.cumsum(histogram) - histogram[darkest]
    scale = np.float32(255.0) / np.float32(rest)
    above[:darkest] = 0
    table: Table = np.rint(above.astype(np.float32) * scale).astype(np.uint8)
    return table


def window_linear(values_L: Values, center: float, width: float, *, is_exact: bool) -> Values:
    """Return 0..1 of a window, by DICOM's LINEAR (centre - 0.5, width - 1) or LINEAR_EXACT function.

    Args:
        values_L: modality values.
        center, width: of the window; the width is above 0, for LINEAR at least 1.
        is_exact: LINEAR_EXACT.

    Source: DICOM PS3.3 C.11.2.1.2.1 and C.11.2.1.3.2. pydicom's ``apply_windowing`` is not used: it takes its output
    range from the rescaled ends of the stored range, which a negative slope swaps, so that the picture is inverted.
    """
    if not is_exact:
        center, width = center - 0.5, width - 1.0
    if width == 0:
        return np.where(values_L <= center, 0.0, 1.0)
    share_L: Values = np.clip((values_L - center) / width + 0.5, 0.0, 1.0)
    return share_L


def window_sigmoid(values_L: Values, center: float, width: float) -> Values:
    """Return 0..1 of a window, by DICOM's SIGMOID function (PS3.3 C.11.2.1.3.1)."""
    exponent_L = np.minimum(-4.0 * (values_L - center) / width, 700.0)  # more would overflow
    share_L: Values = 1.0 / (1.0 + np.exp(exponent_L))
    return share_L


def look_up(values_L: Values, entries: Values, first_mapped: float) -> Values:
    """Return the LUT entry of each value; below the first mapped value the first, past the end the last entry.

    pydicom's ``apply_modality_lut`` and ``apply_voi`` are not used: they index in the pixels' or the entries' own type,
    which wraps (16-bit pixels through an 8-bit LUT), and know no 12-bit modality LUT.
    """
    positions = np.clip(np.rint(values_L - first_mapped), 0, len(entries) - 1).astype(np.int64)
    looked_up: Values = entries[positions]
    return looked_up
