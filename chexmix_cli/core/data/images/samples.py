"""Samples of PNG, TIFF and JPEG 2000 that Pillow would cut to 8 bits, take for a negative, or not open.

Pillow keeps the upper byte of 16-bit colour, takes deep TIFF samples as they are where zero is white, and scrambles
16-bit colour by planes. imagecodecs and tifffile keep every bit.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.data.dicom.codestream import frame_header
from chexmix_cli.core.data.dicom.decode import check_size_px
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG2000_MAGIC = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
#: TIFF tags and values (TIFF 6.0, sections 4, 6, 18 and 19).
_PHOTOMETRIC, _SAMPLE_FORMAT, _ORIENTATION = 262, 339, 274
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_UNSIGNED = 1
_BY_PLANES = 2
_ASSOCIATED, _UNASSOCIATED = 1, 2
#: Colour, opacity, and a few channels that are left out. All are decoded: ``input.max_pixels`` bounds memory only so.
_MOST_SAMPLES = 8
#: ITU-R BT.601, as Pillow weighs.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Samples:
    """A picture as its file holds it.

    Attributes:
        values: (Y, X) grey or (Y, X, 3) RGB, integers or floats of any width; black is low unless ``is_white_zero``.
        bits: of an integer sample.
        opacity_YX: 0 (transparent) to 1, or None.
        is_white_zero: the values run from white to black.
        orientation: EXIF's, 1 to 8.
        num_frames: pictures in the file; this is the first.
        notes: on what was left out or taken for granted.
    """

    values: NDArray[Any]
    bits: int
    opacity_YX: NDArray[np.float64] | None = None
    is_white_zero: bool = False
    orientation: int = 1
    num_frames: int = 1
    notes: tuple[str, ...] = ()

    @property
    def has_8_bits(self) -> bool:
        """Return whether the values are unsigned and of 8 bits or fewer: display values."""
        return self.bits <= 8 and bool(np.issubdtype(self.values.dtype, np.unsignedinteger))

    @property
    def has_16_bits(self) -> bool:
        """Return whether the values are unsigned and of 16 bits."""
        return bool(self.values.dtype == np.uint16)

    @property
    def is_more_than_grey(self) -> bool:
        """Return whether there are colours or an opacity, alike or not."""
        return self.values.ndim == 3 or self.opacity_YX is not None

    @property
    def is_coloured(self) -> bool:
        """Return whether the channels differ."""
        return self.values.ndim == 3 and not bool((self.values == self.values[..., :1]).all())

    @property
    def grey(self) -> NDArray[Any]:
        """Return the values as one channel, (Y, X), black low; of colours the luminance."""
        values = self.values
        if values.ndim == 3:
            values = values @ _LUMA if self.is_coloured else values[..., 0]
        return _mirrored(values, self.bits) if self.is_white_zero else values

    def turned(self) -> Samples:
        """Return the picture as its orientation says, upright."""

        # The first stored row is at the top, and the first column at the left, of orientation 1 (TIFF 6.0, section 8).
        def turn(array: NDArray[Any]) -> NDArray[Any]:
            array = np.swapaxes(array, 0, 1) if self.orientation >= 5 else array
            array = array[:, ::-1] if self.orientation in (2, 3, 6, 7) else array
            return array[::-1] if self.orientation in (3, 4, 7, 8) else array

        opacity = None if self.opacity_YX is None else turn(self.opacity_YX)
        return replace(self, values=turn(self.values), opacity_YX=opacity, orientation=1)

    def eight_bits(self, *, ignores_polarity: bool) -> Image.Image:
        """Return the values in 8 bits with their opacity: of 16 bits the upper 8, fewer than 8 scaled up."""
        values = self.values
        if self.is_white_zero and not ignores_polarity:
            values = _mirrored(values, self.bits)
        values = values >> 8 if self.bits == 16 else values * (255 // ((1 << self.bits) - 1))
        channels = values[..., None] if values.ndim == 2 else values
        if self.opacity_YX is not None:
            top = 256 if self.bits == 16 else 255
            alpha = np.minimum(self.opacity_YX * top, 255)
            channels = np.concatenate([channels, alpha[..., None]], axis=2)
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels.shape[2]]
        array = np.ascontiguousarray(channels.astype(np.uint8))
        return Image.fromarray(array[..., 0] if mode == "L" else array, mode)


def is_tiff(head: bytes) -> bool:
    """Tell whether a file's first bytes are TIFF's or BigTIFF's."""
    return head.startswith(_TIFF_MAGIC)


def has_deep_samples(data: bytes) -> bool:
    """Tell whether a picture has to be read here: more than 8 bits, or a TIFF that Pillow may misread."""
    if data.startswith(_PNG_MAGIC):
        return data[24:25] == b"\x10"  # bit depth, in the header chunk
    if data.startswith(_JPEG2000_MAGIC):
        header = frame_header(data)
        return header is not None and header.precision > 8
    if not is_tiff(data):
        return False
    with _open_tiff(io.BytesIO(data)) as tiff:
        page = _first_page(tiff)
        formats = set(np.atleast_1d(page.tags.valueof(_SAMPLE_FORMAT, _UNSIGNED)).tolist())
        # Pillow takes zero for white where the file does not say.
        return _depth(page) > 8 or formats != {_UNSIGNED} or _PHOTOMETRIC not in page.tags


def read_samples(data: bytes, settings: InputSettings) -> Samples:
    """Return the samples of a picture's first frame, at full depth.

    Raises:
        DataError: ``TOO_SMALL``, ``TOO_LARGE``, ``UNSUPPORTED_PIXELS``, ``CORRUPT``. The libraries' own errors pass.
    """
    if is_tiff(data):
        with _open_tiff(io.BytesIO(data)) as tiff:
            return _read_tiff(tiff, settings, len(data))
    from imagecodecs import jpeg2k_decode, png_decode

    if data.startswith(_PNG_MAGIC):
        return replace(_with_alpha(png_decode(data), 16), orientation=_exif_orientation(data))
    header = frame_header(data)
    assert header is not None
    # Of the boxes around it Pillow has read the size; memory is taken for what the codestream itself says.
    check_size_px(header.rows, header.columns, settings)
    return _with_alpha(jpeg2k_decode(data), header.precision)


def check_tiff(stream: BinaryIO, settings: InputSettings) -> None:
    """Raise DataError if the header of a TIFF shows that it cannot be used; no pixel is decoded."""
    with _open_tiff(stream) as tiff:
        _check_page(_first_page(tiff), settings)


def _exif_orientation(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return int(image.getexif().get(_ORIENTATION, 1))


def _open_tiff(stream: BinaryIO) -> TiffFile:
    import tifffile

    # It logs what it finds odd, with values of the file in the message.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile.TiffFile(stream)


def _first_page(tiff: TiffFile) -> TiffPage:
    return tiff.pages.first


def _depth(page: TiffPage) -> int:
    return int(np.max(page.bitspersample))


def _check_page(page: TiffPage, settings: InputSettings) -> None:
    check_size_px(page.imagelength, page.imagewidth, settings)
    photometric = page.tags.valueof(_PHOTOMETRIC, _BLACK_IS_ZERO)
    is_known = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and page.dtype is not None
    if not is_known or page.imagedepth != 1 or np.issubdtype(page.dtype, np.complexfloating):
        raise DataError(Reason.UNSUPPORTED_PIXELS, "the TIFF's kind of pixels is not read", expected="grey or RGB")
    if page.samplesperpixel > _MOST_SAMPLES:
        raise DataError(
            Reason.UNSUPPORTED_PIXELS,
            f"the TIFF has {page.samplesperpixel} samples a pixel",
            expected=f"at most {_MOST_SAMPLES}",
        )
    if page.samplesperpixel < (3 if photometric == _RGB else 1):
        raise DataError(Reason.CORRUPT, f"the TIFF has {page.samplesperpixel} samples a pixel", expected="3 for RGB")


def _read_tiff(tiff: TiffFile, settings: InputSettings, num_bytes: int) -> Samples:
    page = _first_page(tiff)
    _check_page(page, settings)
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > num_bytes or 0 in page.databytecounts:
        raise DataError(Reason.CORRUPT, "the TIFF ends within its pixels")
    array = page.asarray()
    if page.planarconfig == _BY_PLANES and page.samplesperpixel > 1:
        array = np.moveaxis(array, 0, -1)
    array = array.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    photometric = page.tags.valueof(_PHOTOMETRIC)
    num_colours = 3 if photometric == _RGB else 1
    notes = []
    if photometric is None:
        notes.append("the TIFF does not say whether zero is black or white; taken for black")
    values, opacity = array[..., :num_colours], None
    extra = [int(kind) for kind in page.extrasamples]
    alpha = next((n for n, kind in enumerate(extra) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
    if alpha is not None and np.issubdtype(array.dtype, np.unsignedinteger):
        opacity = array[..., num_colours + alpha] / float((1 << _depth(page)) - 1)
        if extra[alpha] == _ASSOCIATED:
            values = np.where(opacity[..., None] > 0, values / np.maximum(opacity[..., None], 1e-9), 0)
            values = np.minimum(np.rint(values), np.iinfo(array.dtype).max).astype(array.dtype)
    elif page.samplesperpixel > num_colours:
        notes.append("channels beside grey or RGB are left out")
    return Samples(
        values=values[..., 0] if num_colours == 1 else values,
        bits=_depth(page),
        opacity_YX=opacity,
        is_white_zero=photometric == _WHITE_IS_ZERO,
        orientation=int(page.tags.valueof(_ORIENTATION, 1)),
        num_frames=len(tiff.pages),
        notes=tuple(notes),
    )


def _with_alpha(array: NDArray[Any], bits: int) -> Samples:
    """Return a decoded array of 1 to 4 channels, the second or fourth of which is opacity, as samples."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    if channels > 4:
        raise DataError(Reason.UNSUPPORTED_PIXELS, f"the picture has {channels} channels", expected="1 to 4")
    array = array.reshape(*array.shape[:2], channels)
    opacity = array[..., -1] / float((1 << bits) - 1) if channels in (2, 4) else None
    return Samples(array[..., :3] if channels > 2 else array[..., 0], bits, opacity)


def _mirrored(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return values in which low and high have changed places: within the range of the type, or of the floats there."""
    if np.issubdtype(values.dtype, np.unsignedinteger):
        return np.asarray((1 << bits) - 1 - values.astype(np.int64))
    if np.issubdtype(values.dtype, np.integer):
        return np.asarray(-1 - values.astype(np.int64))
    finite = values[np.isfinite(values)]
    return np.asarray(finite.min() + finite.max() - values) if finite.size else values
