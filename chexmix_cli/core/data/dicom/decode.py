"""From a parsed DICOM file to one frame of stored values; what can be known before decoding is checked before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGExtended12Bit, RLELossless

from chexmix_cli.core.data.dicom.codestream import FrameHeader, frame_header, is_jpeg_xl, repaired_scan, without_nuls
from chexmix_cli.core.data.dicom.decoders import (
    decode_twelve_bits,
    plugin_of,
    require_decoder,
    silent_codecs,
    syntax_of,
)
from chexmix_cli.core.data.dicom.encapsulation import frame_of
from chexmix_cli.core.data.dicom.file import DicomFile, quiet
from chexmix_cli.core.data.dicom.rle import decode_rle
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

#: Shortest side that can hold a chest; thumbnails and icons are below.
MIN_SIDE_PX = 64
#: They would point into what the frame was taken from.
_OFFSET_TABLE = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The image pixel module of a header, checked."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric: str
    num_frames: int

    @property
    def is_monochrome(self) -> bool:
        """Return whether the values are grey levels, which modality and VOI transforms apply to."""
        return self.photometric in _MONOCHROME

    @property
    def num_bytes(self) -> int:
        """Return the size of all frames, uncompressed."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.num_frames * self.rows * self.columns * samples * self.bits_allocated // 8


def check_layout(file: DicomFile, settings: InputSettings) -> PixelLayout:
    """Return the layout of a file's pixels, from its header alone.

    Raises:
        DataError: ``TOO_SMALL``, ``TOO_LARGE``, ``NO_PIXELS``, ``CORRUPT`` (an attribute is missing or impossible),
            ``UNSUPPORTED_PIXELS``, ``NEEDS_PLUGIN``, ``SHORT_PIXELS``.
    """
    rows, columns = file.integer("Rows"), file.integer("Columns")
    if rows and columns:
        check_size_px(rows, columns, settings)
    if file.pixels is None or file.pixels.num_bytes == 0:
        what = "the file has no pixels" if file.pixels is None else "the pixel data is empty"
        raise DataError(Reason.NO_PIXELS, what)
    layout = _layout(file)
    _require_supported(file, layout)
    if settings.frame >= layout.num_frames:
        raise DataError(
            Reason.NO_PIXELS, f"there is no frame {settings.frame}", expected=f"input.frame below {layout.num_frames}"
        )
    if not file.transfer_syntax.is_encapsulated:
        if file.pixels.num_bytes is None:
            raise DataError(Reason.UNSUPPORTED_PIXELS, "the pixels are compressed, and the file does not say how")
        _require_bytes(file.pixels.num_bytes, layout)
    return layout


def check_size_px(rows: int, columns: int, settings: InputSettings) -> None:
    """Raise ``TOO_SMALL`` or ``TOO_LARGE`` (above ``input.max_pixels``) if an image's size cannot be used."""
    if min(rows, columns) < MIN_SIDE_PX:
        raise DataError(
            Reason.TOO_SMALL, f"the image is {columns} x {rows} px", expected=f"sides of {MIN_SIDE_PX} px or more"
        )
    if rows * columns > settings.max_pixels:
        raise DataError(
            Reason.TOO_LARGE,
            f"the image has {rows * columns} pixels",
            expected=f"at most {settings.max_pixels} (input.max_pixels)",
        )


def decode(file: DicomFile, layout: PixelLayout, frame: int) -> NDArray[Any]:
    """Return one frame as stored: monochrome (Y, X) integers, or colour (Y, X, 3) uint8 RGB.

    Raises:
        DataError: ``SHORT_PIXELS``, ``CORRUPT``, ``UNSUPPORTED_PIXELS``.
    """
    value = file.value("PixelData")
    if not value:
        raise DataError(Reason.NO_PIXELS, "the pixel data is empty")
    syntax = file.transfer_syntax
    if syntax.is_encapsulated:
        stream = frame_of(value, num_frames=layout.num_frames, frame=frame)
    else:
        _require_bytes(len(value), layout)
    dataset = file.dataset
    with quiet(), silent_codecs():
        try:
            if file.transfer_syntax.is_encapsulated:
                value, syntax = _prepared_frame(stream, syntax, layout)
                dataset.PixelData, dataset.NumberOfFrames, frame = value, 1, 0
                for keyword in _OFFSET_TABLE:
                    dataset.pop(keyword, None)
                dataset.PlanarConfiguration = 1 if file.transfer_syntax == RLELossless else 0
            dataset.file_meta.TransferSyntaxUID = syntax
            plugin = plugin_of(syntax) if syntax.is_encapsulated else ""
            array, _ = get_decoder(syntax).as_array(dataset, index=frame, decoding_plugin=plugin)
            if layout.photometric == "PALETTE COLOR":
                array = apply_color_lut(array, dataset)
        except DataError:
            raise
        except Exception as error:  # each decoder has its own kinds
            raise DataError(Reason.CORRUPT, f"the pixel data cannot be decoded ({type(error).__name__})") from None
    expected = (layout.rows, layout.columns) if layout.is_monochrome else (layout.rows, layout.columns, 3)
    if array.shape != expected:
        raise DataError(Reason.CORRUPT, f"the decoded frame has shape {array.shape}", expected=str(expected))
    return array if layout.is_monochrome else _eight_bits(array, layout)


def _layout(file: DicomFile) -> PixelLayout:
    def required(keyword: str) -> int:
        value = file.integer(keyword)
        if value is None or value < 0:
            raise DataError(Reason.CORRUPT, f"the header lacks {keyword}", expected="a complete image pixel module")
        return value

    photometric = (file.text("PhotometricInterpretation") or "").upper()
    if not photometric:
        raise DataError(Reason.CORRUPT, "the header lacks PhotometricInterpretation")
    layout = PixelLayout(
        rows=required("Rows"),
        columns=required("Columns"),
        samples=required("SamplesPerPixel"),
        bits_allocated=required("BitsAllocated"),
        bits_stored=required("BitsStored"),
        is_signed=required("PixelRepresentation") == 1,
        photometric=photometric,
        num_frames=max(1, file.integer("NumberOfFrames") or 1),
    )
    if layout.rows == 0 or layout.columns == 0 or not 0 < layout.bits_stored <= layout.bits_allocated:
        raise DataError(Reason.CORRUPT, "the image pixel module contradicts itself")
    return layout


def _require_supported(file: DicomFile, layout: PixelLayout) -> None:
    def refuse(what: str, expected: str) -> None:
        raise DataError(Reason.UNSUPPORTED_PIXELS, what, expected=expected)

    if file.pixels is not None and file.pixels.is_float:
        refuse("the pixels are floating point", "integer pixel data")
    if not layout.is_monochrome and layout.photometric not in _COLOUR:
        refuse("the photometric interpretation is not known", ", ".join((*_MONOCHROME, *_COLOUR)))
    if layout.samples != (1 if layout.is_monochrome or layout.photometric == "PALETTE COLOR" else 3):
        refuse(f"{layout.samples} samples a pixel do not fit {layout.photometric}", "1 for grey, 3 for colour")
    if layout.bits_allocated not in (8, 16, 32) or not 2 <= layout.bits_stored <= 16:
        refuse(f"{layout.bits_stored} bits are stored in {layout.bits_allocated}", "2 to 16 bits in 8, 16 or 32")
    high_bit = file.integer("HighBit")
    if high_bit is not None and high_bit != layout.bits_stored - 1:
        refuse(f"the high bit is {high_bit} with {layout.bits_stored} bits stored", "values in the low bits")
    if layout.photometric == "PALETTE COLOR" and not file.transfer_syntax.is_little_endian:
        refuse("the palette is big endian", "little endian")  # pydicom reads its entries in the wrong order
    require_decoder(file.transfer_syntax)


def _require_bytes(num_bytes: int, layout: PixelLayout) -> None:
    if num_bytes < layout.num_bytes:
        raise DataError(
            Reason.SHORT_PIXELS, f"the pixel data has {num_bytes} bytes", expected=f"{layout.num_bytes}, by the header"
        )


def _prepared_frame(stream: bytes, syntax: UID, layout: PixelLayout) -> tuple[bytes, UID]:
    """Return one frame as pixel data of its own, and in which transfer syntax: repaired, or decoded already."""
    header = frame_header(stream)
    if header is None and syntax == RLELossless:
        num_pixels, sample_bytes = layout.rows * layout.columns, layout.bits_allocated // 8
        decoded = decode_rle(stream, num_pixels=num_pixels, sample_bytes=sample_bytes, samples=layout.samples)
        return decoded + b"\x00" * (len(decoded) % 2), ExplicitVRLittleEndian
    header = _checked(header, stream, layout)
    syntax = syntax_of(header, syntax)
    stream = without_nuls(stream) if header.coding == "jpeg-ls" else repaired_scan(stream) or stream
    is_deep = syntax == JPEGExtended12Bit and layout.is_monochrome and layout.bits_allocated == 16
    if is_deep and plugin_of(syntax) == "gdcm":
        return decode_twelve_bits(stream, header), ExplicitVRLittleEndian
    return encapsulate([stream]), syntax


def _checked(header: FrameHeader | None, stream: bytes, layout: PixelLayout) -> FrameHeader:
    """Hold what a compressed frame says of itself against the header, before a decoder believes it."""
    if header is None:
        if is_jpeg_xl(stream):
            raise DataError(Reason.UNSUPPORTED_PIXELS, "the compressed frame is JPEG XL", detail="JPEG-XL")
        raise DataError(Reason.CORRUPT, "the compressed frame does not state its size")
    if (header.rows, header.columns) != (layout.rows, layout.columns) or header.components != layout.samples:
        raise DataError(
            Reason.CORRUPT,
            f"the compressed frame has {header.columns} x {header.rows} px, {header.components} components",
            expected=f"{layout.columns} x {layout.rows}, {layout.samples}, as in the header",
        )
    return header


def _eight_bits(array: NDArray[Any], layout: PixelLayout) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    bits = 16 if layout.photometric == "PALETTE COLOR" else layout.bits_stored
    scaled: NDArray[np.uint8] = np.rint(array * (255.0 / ((1 << bits) - 1))).clip(0, 255).astype(np.uint8)
    return scaled
