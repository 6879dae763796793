from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from chexmix_cli.core.data.rendering import intensity
from chexmix_cli.core.data.rendering.levels import count_levels
from chexmix_cli.core.errors import DataError, Reason


def levels_of(*values: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array(values, dtype=np.float64), np.ones(len(values), dtype=np.int64)


def test_linear_window_is_dicoms_with_its_half_pixel_and_width_less_one():
    # PS3.3 C.11.2.1.2.1, c = 2048, w = 4096: x <= 0 is the minimum, x > 4095 the maximum, between them linear.
    values_L = np.array([-5.0, 0.0, 1.0, 2047.5, 4095.0, 4096.0, 9000.0])
    shares_L = intensity.window_linear(values_L, 2048, 4096, is_exact=False)
    assert shares_L == pytest.approx([0, 0, 1 / 4095, 0.5, 1, 1, 1], abs=1e-12)


def test_linear_window_of_width_one_is_a_threshold():
    shares_L = intensity.window_linear(np.array([99.0, 99.5, 99.6, 100.0]), 100, 1, is_exact=False)
    assert shares_L.tolist() == [0, 0, 1, 1]


def test_exact_linear_window():
    shares_L = intensity.window_linear(np.array([0.0, 25.0, 50.0, 100.0, 101.0]), 50, 100, is_exact=True)
    assert shares_L.tolist() == [0, 0.25, 0.5, 1, 1]


def test_sigmoid_window():
    shares_L = intensity.window_sigmoid(np.array([-1e9, 50.0, 75.0, 1e9]), 50, 100)
    assert shares_L == pytest.approx([0, 0.5, 1 / (1 + math.exp(-1)), 1], abs=1e-12)


def test_lut_clamps_at_both_ends_and_knows_negative_first_values():
    entries = np.array([10.0, 20.0, 30.0])
    assert intensity.look_up(np.array([-9.0, -2.0, -1.0, 0.0, 70.0]), entries, -2.0).tolist() == [10, 10, 20, 30, 30]


def test_percentile_stretch_ignores_a_few_outliers():
    values_L = np.array([0.0, 100.0, 200.0, 60_000.0])
    counts_L = np.array([1, 500, 500, 1])
    assert intensity.stretch_percentiles(values_L, counts_L).tolist() == [0, 0, 255, 255]


def test_percentile_stretch_of_mostly_one_value_takes_minimum_and_maximum():
    assert intensity.stretch_percentiles(np.array([1.0, 3.0, 5.0]), np.array([1, 1, 100_000])).tolist() == [0, 128, 255]


def test_official_stretch_cuts_and_does_not_round():
    values_L, counts_L = levels_of(*range(101))  # percentiles 1 and 99 are 1 and 99
    table_L = intensity.stretch_official(values_L, counts_L)
    assert table_L[:3].tolist() == [0, 0, 2]  # 255 / 98 = 2.602
    # The epsilon in the divisor keeps even the white end below 255 before it is cut.
    assert table_L[98:].tolist() == [252, 254, 254]


def test_official_stretch_of_one_value_is_black_and_no_division_by_zero():
    assert intensity.stretch_official(np.array([7.0]), np.array([9])).tolist() == [0]


def test_equalisation_by_hand():
    # OpenCV: darkest value to 0, then cumulative counts above it over the rest.
    histogram = np.zeros(256, dtype=np.int64)
    histogram[[10, 20, 30]] = 2, 1, 3
    table = intensity.equalize(histogram)
    assert table[[10, 20, 30]].tolist() == [0, 64, 255]  # 255 / 4 = 63.75
    assert table[[9, 19, 29, 31, 255]].tolist() == [0, 0, 64, 255, 255]


def test_mimic_recipe_by_hand():
    # Stored 100..300: (x - 100) / 200 * 255, cut: 0, 127, 255. Then equalised: 0, 255/2 = 127.5 -> 128, 255.
    stored_L, counts_L = levels_of(100, 200, 300)
    assert intensity.recipe_mimic(stored_L, counts_L, is_inverted=False).tolist() == [0, 128, 255]
    assert intensity.recipe_mimic(stored_L, counts_L, is_inverted=True).tolist() == [255, 128, 0]


def test_mimic_recipe_inverts_before_it_equalises():
    # Counts 5, 1, 1. Plain, 2 above the darkest: 0, 128, 255. Inverted, 6 above it: 300 -> 0, 200 -> 42.5, 100 -> 255.
    stored_L, counts_L = np.array([100.0, 200.0, 300.0]), np.array([5, 1, 1])
    assert intensity.recipe_mimic(stored_L, counts_L, is_inverted=False).tolist() == [0, 128, 255]
    assert intensity.recipe_mimic(stored_L, counts_L, is_inverted=True).tolist() == [255, 42, 0]


def test_chexpert_recipe_starts_at_zero_and_rounds():
    # 255 / 400 * 100 = 63.75 -> 64, * 200 = 127.5 -> 128 (half to even), 400 -> 255; all occur once: 0, 128, 255.
    stored_L, counts_L = levels_of(100, 200, 400)
    assert intensity.recipe_chexpert(stored_L, counts_L, is_inverted=False).tolist() == [0, 128, 255]


def test_chexpert_recipe_counts_values_below_zero_by_their_size_up_to_white():
    # 255 / 100 * 400 is more than 255: as white as 100. Equalised, black and white stay.
    stored_L, counts_L = levels_of(-400, 0, 100)
    assert intensity.recipe_chexpert(stored_L, counts_L, is_inverted=False).tolist() == [255, 0, 255]


@pytest.mark.parametrize(
    ("is_inverted", "mimic", "chexpert"),
    [(False, "59dcdd090358bff2", "dfec8ea943a911bc"), (True, "b519b9201db2a6d7", "d2fc1183a33f45a7")],
)
def test_recipes_equal_the_published_code_run_with_opencv(is_inverted, mimic, chexpert):
    # The first digits of SHA-256 of what OpenCV 5.0.0 gives: subtract and divide as in MIT-LCP/mimic-cxr issue 16, or
    # convertScaleAbs as in stanfordmlgroup/chexpert-labeler issue 11; bitwise_not if inverted; equalizeHist.
    row, column = np.mgrid[:97, :83]
    array = ((column * column * 7 + row * 13 + (column * row) % 311 * 5) % 4001 + 37).astype(np.uint16)
    levels = count_levels(array)
    for recipe, digest in ((intensity.recipe_mimic, mimic), (intensity.recipe_chexpert, chexpert)):
        painted = levels.paint(recipe(levels.stored_L, levels.counts_L, is_inverted=is_inverted))
        assert hashlib.sha256(painted.tobytes()).hexdigest().startswith(digest)


def test_bytes_are_rounded_and_clipped():
    table_L = intensity.to_bytes(np.array([-0.1, 0.0, 0.5, 1.0, 1.1]))
    assert table_L.tolist() == [0, 0, 128, 255, 255]  # 127.5, to even
    assert table_L.dtype == np.uint8


def test_levels_that_do_not_occur_decide_nothing():
    # Padding is such a level. Were it counted, 1 and 2 would be as good as one value between 0 and 2000.
    stored_L, counts_L = np.array([0.0, 1.0, 2.0, 2000.0]), np.array([0, 1, 1, 0])
    assert intensity.recipe_mimic(stored_L, counts_L, is_inverted=False).tolist() == [0, 0, 255, 255]
    assert intensity.recipe_chexpert(stored_L, counts_L, is_inverted=False).tolist() == [0, 0, 255, 255]
    assert intensity.stretch_percentiles(stored_L, counts_L).tolist() == [0, 0, 255, 255]
    mostly_L = np.array([0, 1, 100_000, 0])
    assert intensity.stretch_percentiles(stored_L, mostly_L).tolist() == [0, 0, 255, 255]


def said(call, *arguments, **options):
    """Return the message of a picture that is refused as blank."""
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    assert caught.value.reason is Reason.BLANK
    return str(caught.value)


@pytest.mark.parametrize("values", [(0.0,), (-5.0, -1.0)])
def test_chexpert_recipe_needs_a_value_above_zero(values):
    message = "no pixel is above 0; expected stored values above 0 for the chexpert preset"
    assert said(intensity.recipe_chexpert, *levels_of(*values), is_inverted=False) == message
    assert intensity.recipe_chexpert(*levels_of(0, 1), is_inverted=False).tolist() == [0, 255]


@pytest.mark.parametrize("recipe", [intensity.recipe_mimic, intensity.recipe_chexpert])
def test_recipes_refuse_a_picture_without_contrast(recipe):
    message = "every pixel has the same value; expected a picture with contrast"
    assert said(recipe, np.array([5.0]), np.array([100]), is_inverted=False) == message


def test_stretch_refuses_a_picture_without_contrast():
    message = "every pixel has the same value; expected a picture with contrast"
    assert said(intensity.stretch_percentiles, np.array([4.0, 5.0]), np.array([0, 9])) == message
