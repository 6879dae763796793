"""Plain pictures: PNG, JPEG, TIFF and a few others, known by their content, to 8-bit grey or RGB.

Pillow decodes, except for what ``samples.py`` reads in its place.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from chexmix_cli.core.data.dicom.codestream import frame_header, is_jpeg_xl
from chexmix_cli.core.data.dicom.decode import check_size_px
from chexmix_cli.core.data.dicom.decoders import silent_codecs
from chexmix_cli.core.data.dicom.render import table_of
from chexmix_cli.core.data.images.samples import Samples, check_tiff, has_deep_samples, is_tiff, read_samples
from chexmix_cli.core.data.presets import Intensity
from chexmix_cli.core.data.rendering.levels import count_levels
from chexmix_cli.core.data.rendering.loaded_image import GreyScale, LoadedImage
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

#: Pillow also opens formats that run programs or fetch fonts; only these are ever asked for.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000")
#: MPO is a JPEG with further pictures behind it.
_JPEG_FORMATS = ("JPEG", "MPO")
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
#: Where a JPEG states its coding: behind the profile and preview that may come first.
_HEAD_BYTES = 256 << 10
_UNCHANGED: tuple[Intensity, ...] = ("voi", "official-jpg")
_EXIF_ORIENTATION = 0x0112
_TURNED = "turned as its EXIF orientation says"
_OVER_WHITE = "transparency laid over white"


def check_picture(stream: BinaryIO, settings: InputSettings) -> None:
    """Raise DataError if a picture's header shows that it cannot be used; no pixel is decoded."""
    with _errors():
        try:
            _open(stream, settings)
        except UnidentifiedImageError:
            stream.seek(0)
            if not is_tiff(stream.read(4)):
                raise
            stream.seek(0)
            check_tiff(stream, settings)


def render_picture(data: bytes, settings: InputSettings, intensity: Intensity) -> LoadedImage:
    """Return a plain picture as 8-bit grey or RGB.

    8-bit pictures are display values and stay as they are under ``voi``; deeper ones have no window and get the
    percentile stretch. Transparency is laid over white.

    Raises:
        DataError: ``UNKNOWN_FORMAT``, ``CORRUPT``, ``TOO_SMALL``, ``TOO_LARGE``, ``UNSUPPORTED_PIXELS``, ``BLANK``.
    """
    notes: list[str] = []
    with _errors(), silent_codecs():
        image = _opened_by_pillow(data, settings, intensity)
        if image is None:
            return _render_samples(read_samples(data, settings), intensity, notes)
        num_frames = getattr(image, "n_frames", 1)
        is_jpeg = image.format in _JPEG_FORMATS
        if num_frames > 1 and not is_jpeg:  # a JPEG's further pictures are previews
            notes.append(_frames_note(num_frames))
        image.seek(0)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        image.load()
        if image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
            if orientation != 1:  # Pillow turns a TIFF while it loads it
                notes.append(_TURNED)
        elif intensity.startswith("official"):
            notes.append("the EXIF orientation is not followed by this preset")
        else:
            image = ImageOps.exif_transpose(image)
            notes.append(_TURNED)
    if intensity == "official":
        intensity = "official-jpg" if is_jpeg else "official-png"
    if image.mode in _EIGHT_BIT_MODES:
        if has_deep_samples(data):
            notes.append("more than 8 bits a channel; the preset keeps the upper 8")
        return _render_eight_bits(image, intensity, notes)
    return LoadedImage(_stretch_deep(np.asarray(image), intensity, notes), notes, "pixels")


def _opened_by_pillow(data: bytes, settings: InputSettings, intensity: Intensity) -> Image.Image | None:
    """Return a picture for Pillow to decode, None if ``samples`` has to read it.

    The released pipeline decodes with Pillow, 16-bit colour with a loss of depth included; of TIFF, which Pillow may
    scramble, ``samples`` makes the same values.
    """
    try:
        image = _open(io.BytesIO(data), settings)
    except UnidentifiedImageError:
        if is_tiff(data):
            return None
        raise
    is_left_to_pillow = intensity.startswith("official") and image.format != "TIFF"
    return image if is_left_to_pillow or not has_deep_samples(data) else None


def _render_samples(samples: Samples, intensity: Intensity, notes: list[str]) -> LoadedImage:
    """Return what ``samples`` read as 8-bit grey, or RGB if it has no more than 8 bits."""
    if samples.num_frames > 1:
        notes.append(_frames_note(samples.num_frames))
    notes.extend(samples.notes)
    if samples.orientation != 1:
        samples = samples.turned()
        notes.append(_TURNED)
    is_official = intensity.startswith("official")
    if is_official and samples.is_white_zero:
        notes.append("the file says that zero is white; the preset ignores it")
    if samples.has_8_bits or (is_official and samples.has_16_bits and samples.is_more_than_grey):
        if not samples.has_8_bits:
            notes.append("more than 8 bits a channel; the preset keeps the upper 8")
        as_png: Intensity = "official-png" if intensity == "official" else intensity
        return _render_eight_bits(samples.eight_bits(ignores_polarity=is_official), as_png, notes)
    if samples.is_coloured:
        notes.append("colour image turned to grey")
    values = samples.values if is_official and samples.values.ndim == 2 else samples.grey
    painted = _stretch_deep(values, intensity, notes, samples.opacity_YX)
    return LoadedImage(painted, notes, "pixels")


def _render_eight_bits(image: Image.Image, intensity: Intensity, notes: list[str]) -> LoadedImage:
    image = _over_white(image, notes)
    scale: GreyScale = "header" if intensity in _UNCHANGED else "pixels"
    return LoadedImage(_stretch_eight_bits(image, intensity), notes, scale)


def _frames_note(num_frames: int) -> str:
    return f"first of {num_frames} frames"


def _open(stream: BinaryIO, settings: InputSettings) -> Image.Image:
    _refuse_by_name(stream.read(_HEAD_BYTES))
    stream.seek(0)
    # It logs what it refuses, with values of the file in the message, and says no more in its error.
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    image = Image.open(stream, formats=_FORMATS)
    width, height = image.size
    check_size_px(height, width, settings)
    return image


def _refuse_by_name(head: bytes) -> None:
    """Name what Pillow does not know, or takes for a damaged JPEG."""
    header = frame_header(head)
    name = "JPEG XL" if is_jpeg_xl(head) else "big-endian BigTIFF" if head.startswith(b"MM\x00+") else None
    if header is not None and header.coding in ("jpeg-lossless", "jpeg-ls"):
        name = "lossless JPEG" if header.coding == "jpeg-lossless" else "JPEG-LS"
    elif header is not None and header.coding == "jpeg" and header.precision != 8:
        name = f"JPEG of {header.precision} bits"
    if name is not None:
        raise DataError(
            Reason.UNSUPPORTED_PIXELS,
            f"{name} is not read from a plain file",
            detail="JPEG-XL" if name == "JPEG XL" else None,
            expected="PNG, JPEG of 8 bits, JPEG 2000, TIFF",
        )


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what Pillow raises into DataError; its warnings are kept quiet, as ``input.max_pixels`` bounds the size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except UnidentifiedImageError:
            raise DataError(
                Reason.UNKNOWN_FORMAT, "not a picture in a known format", expected="PNG, JPEG, TIFF"
            ) from None
        except Image.DecompressionBombError:
            raise DataError(Reason.TOO_LARGE, "the picture has more pixels than can be read") from None
        except Exception as error:  # truncated and damaged files raise many kinds
            raise DataError(Reason.CORRUPT, f"the picture cannot be decoded ({type(error).__name__})") from None


def _over_white(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return an 8-bit picture as ``L`` or ``RGB``, what is transparent in it laid over white."""
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if has_alpha:
        rgba = np.asarray(image.convert("RGBA"))
        opacity = rgba[..., 3:] / 255.0
        if (rgba[..., 3] < 255).any():
            notes.append(_OVER_WHITE)
        colour = ((1.0 - opacity) * 255.0 + opacity * rgba[..., :3]).astype(np.uint8)
        image = Image.fromarray(colour)
    if image.mode == "RGB" or image.mode == "L":
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _stretch_eight_bits(image: Image.Image, intensity: Intensity) -> Image.Image:
    if intensity in _UNCHANGED:
        return image
    if intensity != "official-png":
        image = image.convert("L")
    # The released stretch takes its percentiles over all channels together.
    levels = count_levels(np.asarray(image))
    return Image.fromarray(levels.paint(table_of(intensity, levels.stored_L, levels.counts_L)))


def _stretch_deep(
    values: NDArray[Any], intensity: Intensity, notes: list[str], opacity_YX: NDArray[np.float64] | None = None
) -> Image.Image:
    """Return grey of more than 8 bits, integers or floats (Y, X), in 8 bits; what is transparent does not count."""
    if values.ndim != 2:
        raise DataError(Reason.UNSUPPORTED_PIXELS, "a picture mode that is not read", expected="grey, RGB or palette")
    is_missing = np.zeros(values.shape, dtype=bool)
    if not np.issubdtype(values.dtype, np.integer):
        is_missing = ~np.isfinite(values)
    if is_missing.all():
        raise DataError(Reason.BLANK, "no pixel has a number", expected="a picture")
    if is_missing.any():
        notes.append("pixels without a number are painted black")
        values = np.where(is_missing, values[~is_missing][0], values)
    if opacity_YX is not None:
        is_missing |= opacity_YX == 0
        if is_missing.all():
            raise DataError(Reason.BLANK, "every pixel is transparent", expected="a picture")
    if intensity in _UNCHANGED:
        notes.append("more than 8 bits and no window: percentiles")
    levels = count_levels(values, is_missing)
    painted = levels.paint(table_of(intensity, levels.stored_L, levels.counts_L))
    if opacity_YX is not None and (opacity_YX < 1).any():
        notes.append(_OVER_WHITE)
        painted = np.rint((1.0 - opacity_YX) * 255.0 + opacity_YX * painted).astype(np.uint8)
    return Image.fromarray(painted)
