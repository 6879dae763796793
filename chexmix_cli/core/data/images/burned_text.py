"""Text burned into a film's pixels: letters of one height and one grey, sharp against what is around them, in a line.

Strokes are what a morphological opening (bright text) or closing (dark text) takes away; connected strokes of a
letter's size are letters; letters that stand beside each other on one line, and are alike, are text. A side marker is
one letter or two, with initials below, so a line has :data:`FEWEST` at least. What is written is not read.
``tools/measure_burned_text.py`` measures it (docs/privacy.md).
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

Grey = NDArray[np.uint8]

#: Letters that make a line of text.
FEWEST = 4
#: Longer sides are halved, thirded, ... : letters that are legible on a screen stay some pixels high.
_LONGEST_PX = 1600
#: A stroke is narrower than this many pixels, and this much brighter or darker than what is beside it: the lesser for
#: grey letters, the greater to part white ones that touch.
_STROKE_PX, _CONTRASTS = 8, (32, 80)
#: Heights of letters in pixels, and their widest form (touching letters count as one) by their height.
_LOWEST_PX, _TALLEST_PX, _WIDEST = 6, 64, 1.6
#: Letters of one line: heights by their larger one, bottoms or tops and gaps by their height, contrast by their larger.
_ALIKE, _LEVEL, _GAP, _SAME_GREY = 0.65, 0.2, 1.0, 0.75


class _Letters(NamedTuple):
    top_N: NDArray[np.int64]
    bottom_N: NDArray[np.int64]
    left_N: NDArray[np.int64]
    right_N: NDArray[np.int64]
    contrast_N: NDArray[np.float64]


def text_notes(image: Image.Image, settings: InputSettings) -> list[str]:
    """Return a note if text seems to be burned into a film.

    Raises:
        DataError: ``BURNED_IN_TEXT`` in place of the note, if ``input.burned_in_text`` says so.
    """
    count = longest_line(np.asarray(image.convert("L")))
    if count < FEWEST:
        return []
    note = f"{count} letters in a line: text may be burned into the pixels"
    if settings.burned_in_text == "refuse":
        raise DataError(Reason.BURNED_IN_TEXT, note, expected="no text, as input.burned_in_text asks for")
    return [note]


def longest_line(grey_YX: Grey) -> int:
    """Return how many letters the longest line of text in a film seems to have; 0 or 1 if there is none.

    Args:
        grey_YX: (Y, X), any size.
    """
    step = -(-max(grey_YX.shape) // _LONGEST_PX)
    if step > 1:
        rows, columns = (extent // step * step for extent in grey_YX.shape)
        sum_YX = np.zeros((rows // step, columns // step), np.uint16)
        for row, column in product(range(step), repeat=2):
            sum_YX += grey_YX[row:rows:step, column:columns:step]
        grey_YX = (sum_YX // step**2).astype(np.uint8)
    low_YX = _spread(_spread(grey_YX, np.minimum), np.maximum, back=True)
    high_YX = _spread(_spread(grey_YX, np.maximum), np.minimum, back=True)
    strokes = (grey_YX - low_YX, high_YX - grey_YX)
    return max(_longest(_letters(stroke_YX, least)) for stroke_YX in strokes for least in _CONTRASTS)


def _spread(grey_YX: Grey, choose: np.ufunc, *, back: bool = False) -> Grey:
    """Return the extreme of each window of ``_STROKE_PX`` by as many pixels, which begins or (``back``) ends at it."""
    for axis in (0, 1):
        step = 1
        while step < _STROKE_PX:
            moved, kept = [slice(None)] * 2, [slice(None)] * 2
            moved[axis], kept[axis] = slice(step, None), slice(None, -step)
            if back:
                moved, kept = kept, moved
            out = grey_YX.copy()
            choose(grey_YX[tuple(kept)], grey_YX[tuple(moved)], out=out[tuple(kept)])
            grey_YX, step = out, 2 * step
    return grey_YX


def _letters(stroke_YX: Grey, least: int) -> _Letters:
    """Return what is of a letter's size among connected strokes, from left to right."""
    is_stroke_YX = stroke_YX >= least
    # A line of text has rows of its own: of empty ones between two such only the first is kept, and the film's first.
    has_strokes_Y: NDArray[np.bool_] = np.logical_or.reduce(is_stroke_YX, axis=1)
    is_kept_Y = has_strokes_Y | np.append(True, has_strokes_Y[:-1])
    is_stroke_YX, stroke_YX = is_stroke_YX[is_kept_Y], stroke_YX[is_kept_Y]
    label_YX, _ = ndimage.label(is_stroke_YX, structure=np.ones((3, 3), bool))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(label_YX), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not _LOWEST_PX <= height <= _TALLEST_PX or width > _WIDEST * height:
            continue
        contrast = stroke_YX[rows, columns][label_YX[rows, columns] == number].max()
        found.append((rows.start, rows.stop, columns.start, columns.stop, contrast))
    found.sort(key=lambda box: box[2])
    values = np.array(found, dtype=np.float64).reshape(-1, 5).T
    top, bottom, left, right = values[:4].astype(np.int64)
    return _Letters(top, bottom, left, right, values[4])


def _longest(letters: _Letters) -> int:
    """Return the length of the longest chain of letters, each with the next of its line to its right."""
    top_N, bottom_N, left_N, right_N, contrast_N = letters
    height_N = bottom_N - top_N
    length_N = np.ones(len(top_N), np.int64)
    # Beyond the widest gap there is nothing to look at: a film may be full of dots.
    first_N = np.searchsorted(left_N, right_N - 1)
    end_N = np.searchsorted(left_N, right_N + int(_GAP * _TALLEST_PX), side="right")
    for one in range(len(top_N) - 1, -1, -1):
        others = slice(max(one + 1, first_N[one]), end_N[one])
        tall_M = np.maximum(height_N[others], height_N[one])
        is_next_M = np.minimum(height_N[others], height_N[one]) >= _ALIKE * tall_M
        off_M = np.minimum(abs(bottom_N[others] - bottom_N[one]), abs(top_N[others] - top_N[one]))
        is_next_M &= off_M <= np.maximum(1, _LEVEL * tall_M)
        gap_M = left_N[others] - right_N[one]
        is_next_M &= (gap_M >= -1) & (gap_M <= _GAP * tall_M)
        darker_M = np.minimum(contrast_N[others], contrast_N[one])
        is_next_M &= darker_M >= _SAME_GREY * np.maximum(contrast_N[others], contrast_N[one])
        if is_next_M.any():
            length_N[one] += length_N[others][is_next_M].max()
    return int(length_N.max(initial=0))
