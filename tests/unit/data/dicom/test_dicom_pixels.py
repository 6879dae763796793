"""Every step from stored values to grey, against values worked out by hand. Films are ramps: a value is a place."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.errors import DataError, Reason

PERCENTILES = "no window in the header: percentiles instead"
USELESS = "the window misses the data: percentiles instead"
PADDING = "padding is left out of the grey scale and painted black"


def ramp(dtype=np.uint16, *, start: int = 0, step: int = 1, side: int = 64) -> np.ndarray:
    """Return (side, side): every row goes through start, start + step, ... (side values)."""
    return np.tile((start + step * np.arange(side)).astype(dtype), (side, 1))


def linear(values, center: float, width: float) -> list[int]:
    """Return DICOM's LINEAR window in 8 bits, written a second time from PS3.3 C.11.2.1.2.1."""
    greys = []
    for value in values:
        if value <= center - 0.5 - (width - 1) / 2:
            share = 0.0
        elif value > center - 0.5 + (width - 1) / 2:
            share = 1.0
        else:
            share = (value - (center - 0.5)) / (width - 1) + 0.5
        greys.append(round(share * 255))
    return greys


def test_window(dataset_of, render):
    pixels = ramp(step=16)
    grey, notes = render(dataset_of(pixels, WindowCenter=500, WindowWidth=800, BitsStored=12))
    assert grey[0].tolist() == linear(pixels[0], 500, 800)
    assert (grey == grey[0]).all()
    assert notes == []


def test_several_windows_mean_the_first(dataset_of, render):
    pixels = ramp(step=16)
    dataset = dataset_of(pixels, WindowCenter=[500, 100], WindowWidth=[800, 50], BitsStored=12)
    assert render(dataset)[0][0].tolist() == linear(pixels[0], 500, 800)


def test_window_functions(dataset_of, render):
    pixels = ramp(step=16)
    exact = render(dataset_of(pixels, WindowCenter=500, WindowWidth=800, VOILUTFunction="LINEAR_EXACT"))[0][0]
    assert exact.tolist() == [round(min(max((v - 500) / 800 + 0.5, 0), 1) * 255) for v in pixels[0].tolist()]
    sigmoid = render(dataset_of(pixels, WindowCenter=500, WindowWidth=800, VOILUTFunction="SIGMOID"))[0][0]
    assert sigmoid.tolist() == [round(255 / (1 + np.exp(-4 * (v - 500) / 800))) for v in pixels[0].tolist()]


@pytest.mark.parametrize(
    ("center", "width"), [(500, 0), (500, -5), (500, 0.5), (90_000, 100), (-5_000, 100), (30_000, 60_000), (500, 1)]
)
def test_useless_windows_are_replaced_and_it_is_said(dataset_of, render, center, width):
    grey, notes = render(dataset_of(ramp(step=16), WindowCenter=center, WindowWidth=width, BitsStored=12))
    assert notes == [USELESS]
    assert grey[0, 0] == 0
    assert grey[0, -1] == 255
    assert len(np.unique(grey)) > 50


def test_without_window_percentiles_and_it_is_said(dataset_of, render):
    grey, notes = render(dataset_of(ramp(step=16), BitsStored=12))
    assert notes == [PERCENTILES]
    assert (grey.min(), grey.max()) == (0, 255)


def test_eight_bits_without_window_stay_as_they_are(dataset_of, render):
    pixels = ramp(np.uint8, start=40, step=2)
    grey, notes = render(dataset_of(pixels))
    assert np.array_equal(grey, pixels)
    assert notes == []


def test_eight_bits_with_a_rescale_are_no_display_values(dataset_of, render):
    grey, notes = render(dataset_of(ramp(np.uint8, start=40, step=2), RescaleSlope=2, RescaleIntercept=0))
    assert notes == [PERCENTILES]
    assert grey.max() == 255


def test_rescale_comes_before_the_window(dataset_of, render):
    pixels = ramp(step=16)
    dataset = dataset_of(pixels, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=0, WindowWidth=1600)
    assert render(dataset)[0][0].tolist() == linear(pixels[0] * 2.0 - 1000, 0, 1600)


def test_negative_slope_turns_the_values_and_not_the_window(dataset_of, render):
    pixels = ramp(step=16)
    dataset = dataset_of(pixels, RescaleSlope=-10, RescaleIntercept=10_000, WindowCenter=5_000, WindowWidth=9_000)
    grey, notes = render(dataset)
    assert grey[0].tolist() == linear(pixels[0] * -10.0 + 10_000, 5_000, 9_000)
    assert grey[0, 0] > grey[0, -1]  # stored low is bright: high modality values are
    assert notes == []


def test_negative_slope_without_window(dataset_of, render):
    grey, _ = render(dataset_of(ramp(step=16), RescaleSlope=-1, RescaleIntercept=0))
    assert (grey[0, 0], grey[0, -1]) == (255, 0)


@pytest.mark.parametrize(
    ("attributes", "shift", "factor", "note"),
    [
        ({"RescaleIntercept": 100}, 100, 1, "the rescale has no slope; taken for 1"),
        ({"RescaleSlope": 2}, 0, 2, "the rescale has no intercept; taken for 0"),
        ({"RescaleSlope": 2, "RescaleIntercept": ""}, 0, 2, "the rescale has no intercept; taken for 0"),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, 0, 1, "the rescale is impossible and left out"),
        ({"RescaleSlope": "inf", "RescaleIntercept": 5}, 0, 1, "the rescale is impossible and left out"),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, 0, 1, None),
    ],
)
def test_half_a_rescale(dataset_of, render, attributes, shift, factor, note):
    pixels = ramp(step=16)
    grey, notes = render(dataset_of(pixels, WindowCenter=1000, WindowWidth=2400, **attributes))
    assert grey[0].tolist() == linear(pixels[0] * float(factor) + shift, 1000, 2400)
    assert notes == ([] if note is None else [note])


def test_modality_lut_is_used_instead_of_the_rescale(dataset_of, render, lut):
    pixels = ramp()  # 0..63
    table = [1000 + 5 * (63 - value) for value in range(64)]
    dataset = dataset_of(pixels, ModalityLUTSequence=[lut(table, 0, 16)], RescaleSlope=1, RescaleIntercept=0)
    dataset.WindowCenter, dataset.WindowWidth = 1150, 400
    assert render(dataset)[0][0].tolist() == linear(
        [1000 + 5 * (63 - value) for value in pixels[0].tolist()], 1150, 400
    )


def test_modality_lut_of_twelve_bits_with_its_ends(dataset_of, render, lut):
    pixels = ramp()  # entries for 20..29 only: what is below has the first, what is above the last
    dataset = dataset_of(pixels, ModalityLUTSequence=[lut([400 * n for n in range(10)], 20, 12)])
    dataset.WindowCenter, dataset.WindowWidth = 1801, 3601
    values = [400 * min(max(value - 20, 0), 9) for value in range(64)]
    assert render(dataset)[0][0].tolist() == linear(values, 1801, 3601)


def test_voi_lut_goes_before_the_window(dataset_of, render, lut):
    pixels = ramp()
    entries = [min(4095, 70 * value) for value in range(64)]
    dataset = dataset_of(pixels, VOILUTSequence=[lut(entries, 0, 12), lut([0] * 64, 0, 12)])
    dataset.WindowCenter, dataset.WindowWidth = 10, 20
    grey, notes = render(dataset)
    assert grey[0].tolist() == [round(entry / 4095 * 255) for entry in entries]
    assert notes == []


def test_voi_lut_of_eight_bits_for_deep_pixels_does_not_wrap(dataset_of, render, lut):
    # 1024 entries: an index kept in the entries' own 8 bits would start again at 256.
    pixels = ramp(step=16)
    entries = [value // 4 for value in range(1024)]
    grey, _ = render(dataset_of(pixels, VOILUTSequence=[lut(entries, 0, 8)]))
    assert grey[0].tolist() == [value // 4 for value in pixels[0].tolist()]


def test_voi_lut_for_negative_values(dataset_of, render, lut):
    pixels = ramp(np.int16, start=-32)
    dataset = dataset_of(pixels, VOILUTSequence=[lut([4 * n for n in range(64)], -32, 8, is_signed=True)])
    assert render(dataset)[0][0].tolist() == [4 * n for n in range(64)]
    wrong_sign = lut([4 * n for n in range(64)], 65536 - 32, 8)  # as careless writers store it
    assert render(dataset_of(pixels, VOILUTSequence=[wrong_sign]))[0][0].tolist() == [4 * n for n in range(64)]


def test_damaged_voi_lut_falls_to_the_window_and_it_is_said(dataset_of, render, lut):
    item = lut([1, 2, 3], 0, 12)
    item.LUTDescriptor = [64, 0, 12]
    pixels = ramp(step=16)
    grey, notes = render(dataset_of(pixels, VOILUTSequence=[item], WindowCenter=500, WindowWidth=800))
    assert grey[0].tolist() == linear(pixels[0], 500, 800)
    assert notes == ["the VOI LUT is damaged"]


def test_damaged_modality_lut_is_an_error(dataset_of, render, lut):
    item = lut([1, 2, 3], 0, 12)
    item.LUTDescriptor = [64, 0, 12]
    with pytest.raises(DataError, match="modality LUT is damaged"):
        render(dataset_of(ramp(), ModalityLUTSequence=[item]))


@pytest.mark.parametrize("inverse", ["MONOCHROME1", "shape", "both"])
def test_inversion_comes_after_the_window_and_never_twice(dataset_of, render, inverse):
    pixels = ramp(step=16)
    attributes = {"WindowCenter": 300, "WindowWidth": 400}  # not symmetric: inverting before would show elsewhere
    if inverse != "shape":
        attributes["PhotometricInterpretation"] = "MONOCHROME1"
    if inverse != "MONOCHROME1":
        attributes["PresentationLUTShape"] = "INVERSE"
    grey, _ = render(dataset_of(pixels, **attributes))
    assert grey[0].tolist() == [255 - value for value in linear(pixels[0], 300, 400)]


def test_inversion_comes_after_the_voi_lut(dataset_of, render, lut):
    entries = [value * value for value in range(64)]
    dataset = dataset_of(ramp(), VOILUTSequence=[lut(entries, 0, 12)], PhotometricInterpretation="MONOCHROME1")
    assert render(dataset)[0][0].tolist() == [255 - round(entry / 4095 * 255) for entry in entries]


def test_padding_is_left_out_and_black_even_when_inverted(dataset_of, render):
    pixels = ramp(start=1000, step=16)
    pixels[:, :8] = 0
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        grey, notes = render(
            dataset_of(pixels, PixelPaddingValue=0, PhotometricInterpretation=photometric, BitsStored=12)
        )
        assert (grey[:, :8] == 0).all()
        shown = grey[0, 8:].astype(int)
        assert (shown.min(), shown.max()) == (0, 255)
        steps = np.diff(shown)
        assert (steps >= 0).all() if photometric == "MONOCHROME2" else (steps <= 0).all()
        # 56 values of equal number, stretched end to end: 255 / 55 a step, which padding inside would halve.
        assert abs(abs(steps) - 255 / 55).max() < 1
        assert notes == [PADDING, PERCENTILES]


def test_padding_range(dataset_of, render):
    pixels = ramp(start=0, step=10)
    dataset = dataset_of(pixels, PixelPaddingValue=700, PixelPaddingRangeLimit=500, BitsStored=12)
    grey, _ = render(dataset)
    assert grey[0, 49:51].tolist() == [255, 0]  # 490 is the brightest that is left, 500 is padding
    assert (grey[:, 50:] == 0).all()


def test_padding_value_in_the_other_signedness(dataset_of, render):
    pixels = ramp(np.int16, start=-2000, step=30)
    dataset = dataset_of(pixels)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    _, notes = render(dataset)
    assert PADDING in notes


def test_nothing_but_padding_is_an_error(dataset_of, render):
    with pytest.raises(DataError, match="every pixel is padding") as caught:
        render(dataset_of(ramp() * 0 + 7, PixelPaddingValue=7))
    assert caught.value.reason is Reason.BLANK


def test_padding_that_no_pixel_has_is_not_mentioned(dataset_of, render):
    pixels = ramp(np.uint8, start=40, step=2)
    grey, notes = render(dataset_of(pixels, PixelPaddingValue=0))
    assert np.array_equal(grey, pixels)
    assert notes == []


@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.uint8, 8), (np.uint16, 10), (np.uint16, 12), (np.uint16, 14), (np.uint16, 16)]
)
def test_bit_depths(dataset_of, render, dtype, bits):
    top = (1 << bits) - 1
    pixels = np.tile(np.linspace(0, top, 64).round().astype(dtype), (64, 1))
    dataset = dataset_of(pixels, BitsStored=bits, WindowCenter=(top + 1) / 2, WindowWidth=top + 1)
    assert render(dataset)[0][0].tolist() == linear(pixels[0], (top + 1) / 2, top + 1)


@pytest.mark.parametrize(("dtype", "bits"), [(np.int8, 8), (np.int16, 12), (np.int16, 16)])
def test_signed_depths(dataset_of, render, dtype, bits):
    half = 1 << (bits - 1)
    pixels = np.tile(np.linspace(-half, half - 1, 64).round().astype(dtype), (64, 1))
    stored = pixels if bits == 8 * pixels.itemsize else (pixels & ((1 << bits) - 1)).astype(dtype)  # high bits clear
    dataset = dataset_of(stored, BitsStored=bits, WindowCenter=0, WindowWidth=2 * half)
    assert render(dataset)[0][0].tolist() == linear(pixels[0], 0, 2 * half)


def test_bits_above_those_stored_are_not_read(dataset_of, render):
    pixels = ramp(step=16)
    overlaid = pixels | 0xF000  # an old overlay, kept in the unused bits
    dataset = dataset_of(overlaid, BitsStored=12, WindowCenter=500, WindowWidth=800)
    assert render(dataset)[0][0].tolist() == linear(pixels[0], 500, 800)


def test_raw_detector_data_has_no_window(dataset_of, render):
    dataset = dataset_of(ramp(step=16), PresentationIntentType="FOR PROCESSING", WindowCenter=500, WindowWidth=800)
    assert render(dataset)[1] == ["raw detector data: percentiles instead of a window"]


@pytest.mark.parametrize(
    ("attributes", "is_dark"),
    [
        ({"PixelIntensityRelationshipSign": 1}, True),
        ({"PixelIntensityRelationshipSign": -1}, False),
        ({"PixelIntensityRelationshipSign": 1, "PhotometricInterpretation": "MONOCHROME1"}, False),
        ({"PixelIntensityRelationshipSign": -1, "PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PixelIntensityRelationshipSign": 1, "RescaleSlope": -1, "RescaleIntercept": 0}, False),
        ({}, False),
    ],
)
def test_dark_bone_is_noted(dataset_of, render, attributes, is_dark):
    _, notes = render(dataset_of(ramp(step=16), **attributes))
    assert ("by the header, bone is shown dark" in notes) is is_dark


def test_percentile_preset_ignores_the_window(dataset_of, render):
    grey, notes = render(dataset_of(ramp(step=16), WindowCenter=100, WindowWidth=50), intensity="percentile")
    assert (grey[0, 0], grey[0, -1]) == (0, 255)
    assert grey[0, 32] == pytest.approx(255 * 32 / 63, abs=1)
    assert notes == []


def test_official_presets_on_dicom(dataset_of, render):
    pixels = ramp(step=16)
    inverted = dataset_of(pixels, PhotometricInterpretation="MONOCHROME1", WindowCenter=500, WindowWidth=800)
    for name in ("official", "official-png"):
        grey, _ = render(inverted, intensity=name)
        shown = 1008.0 - pixels[0]
        low, high = np.percentile(np.tile(shown, 64), [1, 99])
        assert grey[0].tolist() == ((np.clip(shown, low, high) - low) / (high - low + 1e-8) * 255).astype(int).tolist()
    assert np.array_equal(render(inverted, intensity="official-jpg")[0], render(inverted)[0])


def test_data_set_recipes_use_stored_values(dataset_of, render):
    pixels = ramp(step=16)
    dataset = dataset_of(pixels, RescaleSlope=-1, RescaleIntercept=2000, WindowCenter=500, WindowWidth=10)
    for name in ("mimic-jpg", "chexpert"):
        grey, notes = render(dataset, intensity=name)
        assert grey[0].tolist() == [round(255 * n / 63) for n in range(64)]  # equal counts: equalised to even steps
        assert notes == [f"the {name} recipe ignores that the rescale slope is negative"]
        dataset.PhotometricInterpretation = "MONOCHROME1"
        assert render(dataset, intensity=name)[0][0].tolist() == [round(255 * (63 - n) / 63) for n in range(64)]
        dataset.PhotometricInterpretation = "MONOCHROME2"
