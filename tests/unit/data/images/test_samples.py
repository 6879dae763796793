"""Deep PNG, TIFF and JPEG 2000 against the array they were written of: every depth, order, compression and polarity."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from chexmix_cli.core.data.images.pictures import check_picture, render_picture
from chexmix_cli.core.data.images.samples import has_deep_samples, read_samples
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

SETTINGS = InputSettings()
DEEP = "more than 8 bits and no window: percentiles"
Y, X = np.mgrid[0:70, 0:90]
#: A smooth picture of 12 bits, its brightest part at the right.
FILM = (200 + 30 * X + 8 * Y).astype(np.uint16)
EXPECTED = np.rint(np.clip((FILM - np.percentile(FILM, 0.5)) / np.ptp(np.percentile(FILM, [0.5, 99.5])), 0, 1) * 255)


def tiff(array: np.ndarray, **options: Any) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, array, metadata=None, **{"photometric": "minisblack", **options})
    return stream.getvalue()


def rendered(data: bytes, intensity: Any = "voi") -> tuple[np.ndarray, list[str]]:
    check_picture(BytesIO(data), SETTINGS)
    loaded = render_picture(data, SETTINGS, intensity)
    return np.asarray(loaded.image), loaded.notes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "f4", "f8", "f2"])
def test_zero_is_white_or_black_at_any_depth_order_and_compression(dtype, compression, order):
    array = FILM.astype(dtype)
    # White is 0: of unsigned types the range is turned round; of the others, whatever runs the other way.
    inverted = np.iinfo(dtype).max - array if dtype.startswith("u") else 5000 - array
    for values, photometric in ((array, "minisblack"), (inverted.astype(dtype), "miniswhite")):
        data = tiff(values, photometric=photometric, compression=compression, byteorder=order)
        shown, notes = rendered(data)
        assert np.abs(shown - EXPECTED).max() <= (1 if dtype != "f2" else 2)
        assert notes == [DEEP]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_zero_is_white_in_few_bits(bits):
    array = (FILM >> (12 - bits)).astype(np.uint8)
    top = (1 << bits) - 1
    options = {} if bits == 8 else {"bitspersample": bits}
    black, white = (
        rendered(tiff(values, photometric=photometric, **options))[0]
        for values, photometric in ((array, "minisblack"), (top - array, "miniswhite"))
    )
    assert np.array_equal(black, array * (255 // top))
    assert np.array_equal(white, black)


def test_twelve_bits_packed():
    for values, photometric in ((FILM, "minisblack"), (4095 - FILM, "miniswhite")):
        shown, _ = rendered(tiff(values, photometric=photometric, bitspersample=12))
        assert np.abs(shown - EXPECTED).max() <= 1


def test_what_pillow_logs_of_a_tiff_reaches_nobody(caplog):
    """It says how many samples a pixel has on the terminal, and to whoever gathers a programme's log."""
    data = tiff((FILM >> 4).astype(np.uint8), photometric="minisblack")
    position = data.index(b"\x15\x01\x03\x00")  # tag 277, a short
    many = data[: position + 8] + (19_964).to_bytes(2, "little") + data[position + 10 :]
    with pytest.raises(DataError):
        rendered(many)
    assert caplog.records == []


def test_a_tiff_that_does_not_say_whether_zero_is_white():
    data = tiff((FILM >> 4).astype(np.uint8))
    position = data.index(b"\x06\x01\x03\x00")  # tag 262, a short
    unsaid = data[:position] + b"\x05\x01" + data[position + 2 :]
    shown, notes = rendered(unsaid)
    assert np.array_equal(shown, FILM >> 4)
    assert notes == ["the TIFF does not say whether zero is black or white; taken for black"]


COLOUR = np.repeat(FILM[..., None], 3, axis=2)
OPAQUE = np.full((*FILM.shape, 1), 65535, np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        imagecodecs.png_encode(COLOUR),
        imagecodecs.png_encode(np.concatenate([COLOUR, OPAQUE], axis=2)),
        imagecodecs.png_encode(np.concatenate([FILM[..., None], OPAQUE], axis=2)),
        imagecodecs.jpeg2k_encode(COLOUR, level=0, bitspersample=16),
        tiff(COLOUR, photometric="rgb"),
        tiff(COLOUR, photometric="rgb", byteorder=">", compression="lzw", predictor=True),
        tiff(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        tiff(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="zlib"),
        tiff(np.concatenate([COLOUR, OPAQUE], axis=2), photometric="rgb", extrasamples=["unassalpha"]),
        tiff(COLOUR, photometric="rgb", tile=(32, 32), compression="zlib"),
        tiff(FILM, bigtiff=True),
    ],
    ids=["rgb", "rgba", "la", "jp2", "tiff", "big-lzw", "planes", "planes-zlib", "tiff-alpha", "tiles", "bigtiff"],
)
def test_sixteen_bits_of_colour_or_with_alpha_keep_their_depth(data):
    assert has_deep_samples(data)
    shown, notes = rendered(data)
    assert np.abs(shown - EXPECTED).max() <= 1
    assert notes == [DEEP]


def test_real_colours_are_weighed():
    colour = np.stack([FILM, FILM // 2, FILM // 4], axis=2)
    shown, notes = rendered(imagecodecs.png_encode(colour))
    assert np.abs(shown - EXPECTED).max() <= 1  # the same shape, whatever the weights
    assert notes == ["colour image turned to grey", DEEP]


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_what_is_transparent_is_white_and_does_not_count(kind):
    alpha = np.full(FILM.shape, 65535, np.uint16)
    alpha[:, :10] = 0
    alpha[:, 10:12] = 32768
    values = FILM if kind == "unassalpha" else (FILM * (alpha / 65535)).round().astype(np.uint16)
    data = tiff(np.stack([values, alpha], axis=2), planarconfig="contig", extrasamples=[kind])
    shown, notes = rendered(data)
    assert (shown[:, :10] == 255).all()
    assert shown[0, 12] == 0  # the darkest that can be seen
    assert 120 < shown[0, 11] < 136
    assert notes == [DEEP, "transparency laid over white"]


def test_all_transparent_is_blank():
    data = imagecodecs.png_encode(np.stack([FILM, np.zeros_like(FILM)], axis=2))
    with pytest.raises(DataError) as caught:
        rendered(data)
    assert caught.value.reason is Reason.BLANK


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_deep_tiff_is_that_of_an_8_bit_one(orientation):
    extra = [(274, "H", 1, orientation, True)]
    deep, notes = rendered(tiff(FILM, extratags=extra))
    flat, flat_notes = rendered(tiff((FILM >> 4).astype(np.uint8), extratags=extra))
    assert deep.shape == flat.shape
    assert np.corrcoef(deep.ravel(), flat.ravel())[0, 1] > 0.999
    turned = [] if orientation == 1 else ["turned as its EXIF orientation says"]
    assert flat_notes == turned
    assert notes == [*turned, DEEP]


@pytest.mark.parametrize("preset", ["official", "official-png", "official-jpg"])
def test_the_released_pipeline_keeps_the_upper_byte_and_the_polarity(preset):
    wide = COLOUR * 16
    as_8 = BytesIO()
    Image.fromarray((wide >> 8).astype(np.uint8)).save(as_8, "PNG")
    expected, _ = rendered(as_8.getvalue(), preset)
    for data in (
        imagecodecs.png_encode(wide),
        tiff(wide, photometric="rgb"),
        tiff(wide.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    ):
        shown, notes = rendered(data, preset)
        assert np.array_equal(shown, expected)
        assert notes == ["more than 8 bits a channel; the preset keeps the upper 8"]
    white, notes = rendered(tiff(FILM, photometric="miniswhite"), preset)
    assert np.array_equal(white, rendered(tiff(FILM), preset)[0])
    assert "the file says that zero is white; the preset ignores it" in notes


def test_first_page_of_several_and_it_is_said():
    stream = BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for values in (FILM, FILM[::-1]):
            writer.write(values, photometric="minisblack", metadata=None)
    shown, notes = rendered(stream.getvalue())
    assert np.abs(shown - EXPECTED).max() <= 1
    assert notes == ["first of 2 frames", DEEP]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(FILM, compression="zlib")[:-400], Reason.CORRUPT),
        (tiff(FILM)[:4000], Reason.CORRUPT),
        (tiff(FILM.astype(np.complex64)), Reason.UNSUPPORTED_PIXELS),
        (tiff(np.zeros((70, 90, 4), np.uint16), photometric="separated"), Reason.UNSUPPORTED_PIXELS),
        (imagecodecs.png_encode(COLOUR)[:-500], Reason.CORRUPT),
        (tiff(FILM[:40]), Reason.TOO_SMALL),
    ],
)
def test_what_cannot_be_read_has_a_reason(data, reason):
    with pytest.raises(DataError) as caught:
        render_picture(data, SETTINGS, "voi")
    assert caught.value.reason is reason


def test_channels_that_are_no_opacity_are_left_out_and_it_is_said():
    data = tiff(np.stack([FILM, FILM[::-1]], axis=2), planarconfig="contig", extrasamples=["unspecified"])
    samples = read_samples(data, SETTINGS)
    assert np.array_equal(samples.grey, FILM)
    assert samples.notes == ("channels beside grey or RGB are left out",)
