"""Frames, colour, pixel spacing, and layouts that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings


def ramp(dtype=np.uint16, *, start: int = 0, step: int = 1, side: int = 64) -> np.ndarray:
    """Return (side, side): every row goes through start, start + step, ... (side values)."""
    return np.tile((start + step * np.arange(side)).astype(dtype), (side, 1))


def test_frame_by_setting(dataset_of, render):
    frames = np.stack([ramp(np.uint8), ramp(np.uint8, start=100)])
    dataset = dataset_of(frames[0], NumberOfFrames=2, PixelData=frames.tobytes())
    for number in (0, 1):
        grey, notes = render(dataset, settings=InputSettings(frame=number))
        assert np.array_equal(grey, frames[number])
        assert notes == [f"frame {number} of 2"]
    with pytest.raises(DataError, match="there is no frame 2"):
        render(dataset, settings=InputSettings(frame=2))


def test_pixels_that_are_not_square_are_made_square(dataset_of, render):
    pixels = ramp(np.uint8, start=50, side=80)
    grey, notes = render(dataset_of(pixels, ImagerPixelSpacing=[0.3, 0.2]))
    assert grey.shape == (120, 80)
    assert notes == ["pixels are not square; rows or columns were resampled"]
    grey, _ = render(dataset_of(pixels, PixelAspectRatio=[1, 2]))
    assert grey.shape == (80, 160)
    grey, notes = render(dataset_of(pixels, ImagerPixelSpacing=[0.3, 0.2]), intensity="official")
    assert grey.shape == (80, 80)
    assert notes == ["pixels are not square; the preset ignores it"]


@pytest.mark.parametrize("spacing", [[0.2, 0.2], [0.2, 0.2001], [0.0, 0.0], [100, 0.1]])
def test_square_or_impossible_spacing_changes_nothing(dataset_of, render, spacing):
    grey, notes = render(dataset_of(ramp(np.uint8, start=50), PixelSpacing=spacing))
    assert grey.shape == (64, 64)
    assert notes == []


def test_rgb_is_turned_to_grey(dataset_of, render):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1], pixels[:, :, 2] = 200, ramp(np.uint8), 30
    grey, notes = render(dataset_of(pixels))
    assert grey[0].tolist() == pytest.approx([0.299 * 200 + 0.587 * n + 0.114 * 30 for n in range(64)], abs=1)
    assert notes == ["colour image turned to grey"]
    planar = dataset_of(pixels, PlanarConfiguration=1, PixelData=pixels.transpose(2, 0, 1).tobytes())
    assert np.array_equal(render(planar)[0], grey)


def test_sixteen_bit_rgb_has_no_window(dataset_of, render):
    for step in (1040, 60):  # of 16 bits, and of 12 as which they are not declared
        grey, notes = render(dataset_of(np.repeat(ramp(step=step)[:, :, None], 3, axis=2)))
        assert grey[0].tolist() == pytest.approx([n / 63 * 255 for n in range(64)], abs=1)
        assert notes == ["colour image turned to grey", "colour of 16 bits and no window: percentiles"]


def test_ybr_full(dataset_of, render):
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[:, :, 0] = ramp(np.uint8, start=60)  # neutral chroma: luminance is grey
    grey, _ = render(dataset_of(pixels, PhotometricInterpretation="YBR_FULL"))
    assert grey[0].tolist() == pytest.approx(list(range(60, 124)), abs=1)


def test_palette(dataset_of, render):
    pixels = ramp(np.uint8)
    dataset = dataset_of(pixels, PhotometricInterpretation="PALETTE COLOR")
    entries = np.array([255 - 2 * n for n in range(64)], np.uint16) * 257
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [64, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", entries.tobytes())
    grey, notes = render(dataset)
    assert grey[0].tolist() == pytest.approx([255 - 2 * n for n in range(64)], abs=1)
    assert notes == ["colour image turned to grey"]


def test_colour_takes_the_other_presets_too(dataset_of, render):
    pixels = np.repeat(ramp(np.uint8)[:, :, None], 3, axis=2)
    for name in ("percentile", "mimic-jpg", "chexpert", "official"):
        grey, _ = render(dataset_of(pixels), intensity=name)
        assert grey.min() == 0
        assert grey.max() >= 254


@pytest.mark.parametrize(
    ("attributes", "reason", "message"),
    [
        ({"PhotometricInterpretation": "HSV"}, Reason.UNSUPPORTED_PIXELS, "photometric interpretation is not known"),
        ({"SamplesPerPixel": 3}, Reason.UNSUPPORTED_PIXELS, "3 samples a pixel do not fit MONOCHROME2"),
        ({"BitsAllocated": 24, "BitsStored": 24}, Reason.UNSUPPORTED_PIXELS, "24 bits are stored in 24"),
        ({"HighBit": 15, "BitsStored": 12}, Reason.UNSUPPORTED_PIXELS, "the high bit is 15 with 12 bits stored"),
        ({"BitsStored": 17}, Reason.CORRUPT, "contradicts itself"),
        ({"Rows": 0}, Reason.CORRUPT, "contradicts itself"),
        ({"Rows": None}, Reason.CORRUPT, "the header lacks Rows"),
        ({"PixelRepresentation": None}, Reason.CORRUPT, "the header lacks PixelRepresentation"),
        ({"PhotometricInterpretation": None}, Reason.CORRUPT, "the header lacks PhotometricInterpretation"),
        ({"Rows": 63}, Reason.TOO_SMALL, "the image is 64 x 63 px"),
        ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE, "4294836225 pixels"),
        ({"Rows": 65}, Reason.SHORT_PIXELS, "the pixel data has 8192 bytes; expected 8320"),
        ({"NumberOfFrames": 2}, Reason.SHORT_PIXELS, "the pixel data has 8192 bytes; expected 16384"),
        ({"PixelData": None}, Reason.NO_PIXELS, "the file has no pixels"),
        ({"PixelData": b""}, Reason.NO_PIXELS, "the pixel data is empty"),
    ],
)
def test_layouts_that_cannot_be_read(dataset_of, render, attributes, reason, message):
    with pytest.raises(DataError, match=message) as caught:
        render(dataset_of(ramp(), **attributes))
    assert caught.value.reason is reason


def test_floating_point_pixels_are_refused(dataset_of, render):
    dataset: Dataset = dataset_of(ramp(), PixelData=None, BitsAllocated=32, BitsStored=32)
    dataset.FloatPixelData = np.zeros((64, 64), np.float32).tobytes()
    with pytest.raises(DataError, match="floating point"):
        render(dataset)


def test_more_pixel_data_than_the_header_says_is_padding_of_the_file(dataset_of, render):
    pixels = ramp(np.uint8, start=40, step=2)
    grey, _ = render(dataset_of(pixels, PixelData=pixels.tobytes() + b"\0" * 10_000))
    assert np.array_equal(grey, pixels)
