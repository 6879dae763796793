"""From a parsed DICOM file to one frame of stored values; what can be known before decoding is checked before."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
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
from chexmix_cli.core.data.dicom.words import is_by_planes, is_luma_first, native_order, natural_rows, read_words
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

#: Shortest side that can hold a chest; thumbnails and icons are below.
MIN_SIDE_PX = 64
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
#: Their terms by letters and digits alone: written with blanks, in lower case, without an underscore, they are met.
_NO_LETTER_OR_DIGIT = re.compile(r"[^A-Z0-9]")
_PHOTOMETRIC = {_NO_LETTER_OR_DIGIT.sub("", term): term for term in (*_MONOCHROME, *_COLOUR)}
_SHALLOW_PALETTE = "the palette has 8 bits, its descriptor says 16"


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


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of stored values.

    Attributes:
        array: monochrome (Y, X) integers, or colour (Y, X, 3) unsigned RGB.
        layout: of the header, or what the data show in its place.
        notes: on where the two differ.
    """

    array: NDArray[Any]
    layout: PixelLayout
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One frame on its way to a decoder: its bytes, their transfer syntax and layout, the stream's own header."""

    value: bytes
    syntax: UID
    layout: PixelLayout
    header: FrameHeader | None = None


def decode(file: DicomFile, layout: PixelLayout, frame: int) -> Frame:
    """Return one frame as stored; where the data contradict the header, as they show.

    Raises:
        DataError: ``SHORT_PIXELS``, ``CORRUPT``, ``UNSUPPORTED_PIXELS``.
    """
    value = file.value("PixelData")
    if not value:
        raise DataError(Reason.NO_PIXELS, "the pixel data is empty")
    syntax = file.transfer_syntax
    stream = frame_of(value, num_frames=layout.num_frames, frame=frame) if syntax.is_encapsulated else None
    if stream is None:
        _require_bytes(len(value), layout)
    with quiet(), silent_codecs():
        try:
            if stream is None:
                size = layout.num_bytes // layout.num_frames
                encoded = _Encoded(value[frame * size : (frame + 1) * size], syntax, replace(layout, num_frames=1))
            else:
                encoded = _prepared_frame(stream, syntax, replace(layout, num_frames=1))
            if layout.is_monochrome:
                has_rest = stream is None and len(value) > layout.num_bytes + 1
                decoded = _grey_frame(file, encoded, has_rest=has_rest)
            else:
                decoded = _colour_frame(file, encoded)
        except DataError:
            raise
        except Exception as error:  # each decoder has its own kinds
            raise DataError(Reason.CORRUPT, f"the pixel data cannot be decoded ({type(error).__name__})") from None
    return decoded


def _decoded(file: DicomFile, encoded: _Encoded, *, is_signed: bool = False, planes: int = 0) -> NDArray[Any]:
    """Return what a decoder makes of a frame, by a pixel module of its own: the header's may contradict the data."""
    layout = encoded.layout
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = encoded.syntax
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = layout.rows, layout.columns, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = layout.samples, layout.photometric
    dataset.BitsAllocated, dataset.BitsStored = layout.bits_allocated, layout.bits_stored
    dataset.HighBit, dataset.PixelRepresentation = layout.bits_stored - 1, int(is_signed)
    if layout.samples > 1:
        dataset.PlanarConfiguration = planes
    stated = file.dataset["PixelData"].VR
    dataset.add_new("PixelData", "OW" if stated == "OW" and not encoded.syntax.is_encapsulated else "OB", encoded.value)
    plugin = plugin_of(encoded.syntax) if encoded.syntax.is_encapsulated else ""
    array, _ = get_decoder(encoded.syntax).as_array(dataset, index=0, decoding_plugin=plugin)
    expected = (layout.rows, layout.columns) if layout.samples == 1 else (layout.rows, layout.columns, 3)
    if array.shape != expected:
        raise DataError(Reason.CORRUPT, f"the decoded frame has shape {array.shape}", expected=str(expected))
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _grey_frame(file: DicomFile, encoded: _Encoded, *, has_rest: bool) -> Frame:
    layout, header = encoded.layout, encoded.header
    is_native = not file.transfer_syntax.is_encapsulated
    is_signed, bits = layout.is_signed, layout.bits_stored
    notes: tuple[str, ...] = ()
    if header is not None and header.is_signed:
        # Only JPEG 2000 says so, and its decoder fills up the sign.
        is_signed, bits = True, header.precision
        filled = _decoded(file, replace(encoded, layout=replace(layout, bits_stored=bits)), is_signed=True)
        words = filled.view(f"u{filled.dtype.itemsize}")
        if not layout.is_signed:
            notes = ("the compressed frame is signed, the header says unsigned",)
    else:
        # Every bit is asked for: what the header makes of them is for ``words`` to say.
        words = _decoded(file, replace(encoded, layout=replace(layout, bits_stored=layout.bits_allocated)))
    if is_native:
        words, notes = native_order(words)
    if header is not None and header.precision < bits:
        notes = (f"the compressed frame has {header.precision} bits, the header says {bits}",)
        bits = header.precision
    reading = read_words(words, bits, is_signed=is_signed, has_overlays=_has_embedded_overlays(file))
    values, found = (reading.values, ()) if not is_native else natural_rows(reading.values, has_rest=has_rest)
    rows, columns = values.shape
    shown = replace(layout, rows=rows, columns=columns, bits_stored=reading.bits, is_signed=reading.is_signed)
    return Frame(values, shown, (*notes, *reading.notes, *found))


def _colour_frame(file: DicomFile, encoded: _Encoded) -> Frame:
    layout = encoded.layout
    if layout.photometric == "PALETTE COLOR":
        colours = apply_color_lut(_decoded(file, encoded), file.dataset)
        layout = replace(layout, bits_stored=8)
        if colours.dtype == np.uint8:
            return Frame(colours, layout)
        if int(colours.max()) < 256:
            return Frame(colours.astype(np.uint8), layout, (_SHALLOW_PALETTE,))
        return Frame(np.rint(colours / 257).astype(np.uint8), layout)
    notes: list[str] = []
    planes = 1 if file.transfer_syntax == RLELossless else 0
    if not file.transfer_syntax.is_encapsulated and layout.photometric != "YBR_FULL_422":
        stated = file.integer("PlanarConfiguration")
        both = [_decoded(file, encoded, planes=kind) for kind in (0, 1)]
        planes = int(is_by_planes(*both, stated=None if stated is None else stated == 1))
        if planes != stated:
            notes.append(f"colour is read by {'planes' if planes else 'pixels'}, as the data show")
        as_rgb = _decoded(file, replace(encoded, layout=replace(layout, photometric="RGB")), planes=planes)
        if layout.photometric != "RGB" and (as_rgb == as_rgb[..., :1]).all():
            return Frame(as_rgb, layout, (*notes, "the three channels are alike; read as RGB"))
    array = _decoded(file, encoded, planes=planes)
    if layout.photometric == "RGB" and is_luma_first(array, layout.bits_stored):
        array = np.repeat(array[..., :1], 3, axis=2)
        notes.append("two channels are constant at half; the first is taken for the brightness")
    return Frame(array, layout, tuple(notes))


def _has_embedded_overlays(file: DicomFile) -> bool:
    """Return whether the header places overlay planes in bits of the pixels (60xx,0102), a retired way."""
    tags = [tag for tag in file.dataset.keys() if 0x6000 <= tag.group <= 0x60FF and tag.element == 0x0102]  # noqa: SIM118
    return any(file.dataset[tag].value for tag in tags)


def _layout(file: DicomFile) -> PixelLayout:
    def required(keyword: str) -> int:
        value = file.integer(keyword)
        if value is None or value < 0:
            raise DataError(Reason.CORRUPT, f"the header lacks {keyword}", expected="a complete image pixel module")
        return value

    letters = _NO_LETTER_OR_DIGIT.sub("", (file.text("PhotometricInterpretation") or "").upper())
    if not letters:
        raise DataError(Reason.CORRUPT, "the header lacks PhotometricInterpretation")
    layout = PixelLayout(
        rows=required("Rows"),
        columns=required("Columns"),
        samples=required("SamplesPerPixel"),
        bits_allocated=required("BitsAllocated"),
        bits_stored=required("BitsStored"),
        is_signed=required("PixelRepresentation") == 1,
        photometric=_PHOTOMETRIC.get(letters, letters),
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


def _prepared_frame(stream: bytes, syntax: UID, layout: PixelLayout) -> _Encoded:
    """Return one frame as pixel data of its own, and in which transfer syntax: repaired, or decoded already."""
    header = frame_header(stream)
    if header is None and syntax == RLELossless:
        num_pixels, sample_bytes = layout.rows * layout.columns, layout.bits_allocated // 8
        decoded = decode_rle(stream, num_pixels=num_pixels, sample_bytes=sample_bytes, samples=layout.samples)
        return _Encoded(decoded + b"\x00" * (len(decoded) % 2), ExplicitVRLittleEndian, layout)
    header = _checked(header, stream, layout)
    if header.precision > 16:
        raise DataError(Reason.UNSUPPORTED_PIXELS, f"the compressed frame has {header.precision} bits", expected="16")
    # What the stream is of, it knows better than the header.
    layout = replace(layout, bits_allocated=8 if header.precision <= 8 else 16)
    syntax = syntax_of(header, syntax)
    stream = without_nuls(stream) if header.coding == "jpeg-ls" else repaired_scan(stream) or stream
    is_deep = syntax == JPEGExtended12Bit and layout.is_monochrome and layout.bits_allocated == 16
    if is_deep and plugin_of(syntax) == "gdcm":
        return _Encoded(decode_twelve_bits(stream, header), ExplicitVRLittleEndian, layout, header)
    return _Encoded(encapsulate([stream]), syntax, layout, header)


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
