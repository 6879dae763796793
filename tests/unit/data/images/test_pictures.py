from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.images.pictures import check_picture, render_picture
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

RAMP = np.tile(np.arange(40, 104, dtype=np.uint8), (64, 1))
DEEP = np.tile((np.arange(64) * 900 + 1000).astype(np.uint16), (64, 1))
SETTINGS = InputSettings()


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rendered(data: bytes, intensity="voi") -> tuple[np.ndarray, list[str]]:
    loaded = render_picture(data, SETTINGS, intensity)
    assert loaded.image.mode in ("L", "RGB")
    return np.asarray(loaded.image), loaded.notes


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP"])
def test_eight_bits_stay_as_they_are_in_every_format(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    grey, notes = rendered(saved(Image.fromarray(RAMP), kind, **options))
    assert np.array_equal(grey if grey.ndim == 2 else grey[..., 0], RAMP)
    assert notes == []


def test_jpeg_is_what_pillow_decodes():
    data = saved(Image.fromarray(RAMP), "JPEG", quality=95)
    for preset in ("voi", "official-jpg", "official"):
        assert np.array_equal(rendered(data, preset)[0], np.asarray(Image.open(BytesIO(data))))


def test_colour_stays_colour():
    colour = np.stack([RAMP, RAMP + 1, RAMP + 2], axis=2)
    assert np.array_equal(rendered(saved(Image.fromarray(colour)))[0], colour)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_have_no_window(kind):
    grey, notes = rendered(saved(Image.fromarray(DEEP), kind))
    assert (grey[0, 0], grey[0, -1]) == (0, 255)
    assert np.allclose(grey[0], np.arange(64) * 255 / 63, atol=1)
    assert notes == ["more than 8 bits and no window: percentiles"]


def test_integers_of_32_bits_and_floats():
    wide = np.tile(np.arange(64, dtype=np.int32) * 70_000_00 - 5, (64, 1))
    for array in (wide, DEEP.astype(np.float32) / 7):
        grey, _ = rendered(saved(Image.fromarray(array), "TIFF"))
        assert np.allclose(grey[0], np.arange(64) * 255 / 63, atol=1)


def test_pixels_without_a_number_are_black_and_change_nothing_else():
    array = DEEP.astype(np.float32)
    array[0, 63] = np.inf
    array[5, 5] = np.nan
    grey, notes = rendered(saved(Image.fromarray(array), "TIFF"))
    assert (grey[0, 63], grey[5, 5], grey[1, 63]) == (0, 0, 255)
    assert "pixels without a number are painted black" in notes
    array[:] = np.nan
    with pytest.raises(DataError, match="no pixel has a number"):
        rendered(saved(Image.fromarray(array), "TIFF"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_official_png_is_the_released_stretch(dtype):
    array = (
        np.random.default_rng(5)
        .gamma(3.0, 20.0 if dtype is np.uint8 else 4000.0, (80, 70))
        .clip(0, 255 if dtype is np.uint8 else 65535)
    )
    array = array.astype(dtype)
    low, high = np.percentile(array, [1, 99])
    expected = ((np.clip(array, low, high) - low) / (high - low + 1e-8) * 255).astype(np.uint8)
    for preset in ("official", "official-png"):
        assert np.array_equal(rendered(saved(Image.fromarray(array)), preset)[0], expected)
    without_epsilon = ((np.clip(array, low, high) - low) / (high - low) * 255).astype(np.uint8)
    assert not np.array_equal(expected, without_epsilon)  # else this test would not see the epsilon


def test_official_png_takes_one_stretch_for_all_channels():
    colour = np.stack([RAMP, RAMP // 2, RAMP // 4], axis=2)
    low, high = np.percentile(colour, [1, 99])
    expected = ((np.clip(colour, low, high) - low) / (high - low + 1e-8) * 255).astype(np.uint8)
    assert np.array_equal(rendered(saved(Image.fromarray(colour)), "official")[0], expected)


def test_official_chooses_by_content_and_not_by_name():
    as_jpeg, as_png = saved(Image.fromarray(RAMP), "JPEG"), saved(Image.fromarray(RAMP))
    assert np.array_equal(rendered(as_jpeg, "official")[0], rendered(as_jpeg, "official-jpg")[0])
    assert np.array_equal(rendered(as_png, "official")[0], rendered(as_png, "official-png")[0])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode):
    alpha = np.full_like(RAMP, 255)
    alpha[:, :32], alpha[:, 32:40] = 0, 128
    layers = [RAMP, alpha] if mode == "LA" else [RAMP, RAMP, RAMP, alpha]
    shown, notes = rendered(saved(Image.fromarray(np.stack(layers, axis=2), mode)))
    grey = shown[..., 0]
    assert (grey[:, :32] == 255).all()
    expected = (127 / 255 * 255 + 128 / 255 * RAMP[:, 32:40].astype(float)).astype(int)
    assert np.abs(grey[:, 32:40].astype(int) - expected).max() <= 1
    assert np.array_equal(grey[:, 40:], RAMP[:, 40:])
    assert notes == ["transparency laid over white"]


def test_an_opaque_alpha_channel_changes_nothing():
    opaque = np.stack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)], axis=2)
    for preset in ("voi", "official"):
        plain = rendered(saved(Image.fromarray(RAMP).convert("RGB")), preset)
        assert np.array_equal(rendered(saved(Image.fromarray(opaque)), preset)[0], plain[0])


def test_palette_and_bilevel():
    palette = Image.fromarray(RAMP).convert("P")
    assert np.abs(rendered(saved(palette))[0][..., 0].astype(int) - RAMP).max() <= 1
    transparent = saved(palette, transparency=0)
    assert rendered(transparent)[0].shape == (64, 64, 3)
    bilevel = Image.fromarray(RAMP).point(lambda value: 255 if value > 70 else 0).convert("1")
    assert set(np.unique(rendered(saved(bilevel))[0])) == {0, 255}


def test_cmyk_becomes_rgb():
    data = saved(Image.fromarray(RAMP).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(rendered(data)[0][..., 0].astype(int) - RAMP).max() < 8


def test_first_frame_of_several_and_it_is_said():
    first, second = Image.fromarray(RAMP), Image.fromarray(255 - RAMP)
    for kind in ("TIFF", "GIF", "PNG"):
        grey, notes = rendered(saved(first, kind, save_all=True, append_images=[second]))
        assert np.array_equal(grey if grey.ndim == 2 else grey[..., 0], RAMP)
        assert notes == ["first of 2 frames"]


def test_exif_orientation_is_followed_but_not_by_the_released_pipeline():
    exif = Image.Exif()
    exif[0x0112] = 6
    array = np.tile(np.arange(100, dtype=np.uint8) + 50, (64, 1))
    data = saved(Image.fromarray(array), "PNG", exif=exif)
    turned, notes = rendered(data)
    assert turned.shape == (100, 64)
    assert notes == ["turned as its EXIF orientation says"]
    assert rendered(data, "official")[0].shape == (64, 100)


@pytest.mark.parametrize("preset", ["mimic-jpg", "chexpert", "percentile"])
def test_other_presets_make_grey_of_colour(preset):
    grey, _ = rendered(saved(Image.fromarray(np.stack([RAMP] * 3, axis=2))), preset)
    assert grey.ndim == 2
    assert (grey.min(), grey.max()) == (0, 255)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (cut(saved(Image.fromarray(RAMP))), Reason.CORRUPT),
        (cut(saved(Image.fromarray(RAMP), "JPEG")), Reason.CORRUPT),
        (cut(saved(Image.fromarray(DEEP), "TIFF")), Reason.CORRUPT),
        (saved(Image.fromarray(RAMP))[:12], Reason.UNKNOWN_FORMAT),
        (b"\x89PNG\r\n\x1a\n and then text", Reason.UNKNOWN_FORMAT),
        (b"no picture at all", Reason.UNKNOWN_FORMAT),
        (b"", Reason.UNKNOWN_FORMAT),
        (saved(Image.new("L", (63, 500), 5)), Reason.TOO_SMALL),
    ],
)
def test_what_cannot_be_read(data, reason):
    with pytest.raises(DataError) as caught:
        rendered(data)
    assert caught.value.reason is reason


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    data = saved(Image.new("L", (1000, 1001)))
    limited = InputSettings(max_pixels=1_000_000)

    def must_not_run(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", must_not_run)
    for check in (lambda: check_picture(BytesIO(data), limited), lambda: render_picture(data, limited, "voi")):
        with pytest.raises(DataError, match=r"1001000 pixels; expected at most 1000000 \(input.max_pixels\)") as caught:
            check()
        assert caught.value.reason is Reason.TOO_LARGE


def test_pillows_own_bound_is_an_error_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # warns above that, and raises above twice
    assert rendered(saved(Image.fromarray(RAMP)))[0].shape == (64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(DataError) as caught:
        rendered(saved(Image.fromarray(RAMP)))
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_picture_with_a_lying_name(tmp_path: Path):
    from chexmix_cli.core.data.images.load import load_image
    from chexmix_cli.core.data.sources import Source

    path = tmp_path / "film.dcm"
    path.write_bytes(saved(Image.fromarray(RAMP)))
    assert np.array_equal(np.asarray(load_image(Source(path), "voi", SETTINGS).image), RAMP)
