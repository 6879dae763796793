"""What a compressed frame says of itself, read before any decoder allocates for it: coding, size, precision, end.

Covers what DICOM encapsulates: JPEG (ITU-T T.81 annex B), JPEG-LS (T.87 annex C), JPEG 2000 and HTJ2K (T.800 annex A).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

Coding = Literal["jpeg", "jpeg-lossless", "jpeg-ls", "jpeg-2000"]

_START_OF_IMAGE = b"\xff\xd8"
_START_OF_CODESTREAM = b"\xff\x4f"
_SIZE_SEGMENT = b"\xff\x51"
_START_OF_TILE_PART = b"\xff\x90"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
#: JPEG XL, as a bare codestream and in its container (ISO/IEC 18181-2); nothing here decodes it.
_JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
#: SOF0, 1, 2 with Huffman and SOF9, 10 with arithmetic coding; SOF3; JPEG-LS's SOF55. Hierarchical ones are not read.
_CODINGS: dict[int, Coding] = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2, 0xC9, 0xCA), "jpeg"),
    0xC3: "jpeg-lossless",
    0xF7: "jpeg-ls",
}
_END_MARKER = b"\xff\xd9"
_START_OF_SCAN = 0xDA
#: What may stand between two scans: tables, DNL, application data, comments, the next scan, the end. In entropy-coded
#: data 0xFF is followed by a stuffed zero bit or byte, or by a restart marker.
_AFTER_SCAN = re.compile(rb"\xff[\xc4\xcc\xd9-\xdd\xe0-\xef\xf8\xfe]")
#: Coefficients 0 to 63, no successive approximation.
_SEQUENTIAL_SCAN = b"\x00\x3f\x00"


class FrameHeader(NamedTuple):
    """How a frame is coded, its rows, columns and components, the bits of a sample, and whether one is a sign."""

    coding: Coding
    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool = False


def starts_stream(data: bytes) -> bool:
    """Tell whether a codestream begins here."""
    return data.startswith((_START_OF_IMAGE + b"\xff", _START_OF_CODESTREAM + _SIZE_SEGMENT, _JP2_BOX))


def is_jpeg_xl(data: bytes) -> bool:
    """Tell whether JPEG XL begins here."""
    return data.startswith(_JPEG_XL)


def frame_header(data: bytes) -> FrameHeader | None:
    """Return what a codestream states, None if it is none of these formats or damaged before it says."""
    try:
        data = data[_start(data) :]
        if data.startswith(_START_OF_CODESTREAM):
            return _jpeg2000_header(data)
        if data.startswith(_START_OF_IMAGE):
            return _jpeg_header(data)
    except (struct.error, IndexError):
        return None
    return None


def end_of_stream(data: bytes) -> int | None:
    """Return the position behind a codestream's end marker; None if it is cut. What follows is filling.

    OpenJPEG and libjpeg decode a cut one without complaint. Lengths of segments and tile-parts are followed, so that
    the two bytes of the marker may stand inside a comment or a table.
    """
    start = _start(data)
    if data.startswith(_START_OF_CODESTREAM, start):
        return _jpeg2000_end(data, start)
    for marker, position, length in _segments(data):
        if marker == _START_OF_SCAN:
            return _jpeg_end(data, position + length)
    return None


def without_nuls(data: bytes) -> bytes:
    """Return a JPEG-LS stream with at most three NULs before its end marker.

    Encoders that pad in front of the marker are met. CharLS, which GDCM decodes with, stops at more; so many bytes of
    zero bits can be data.
    """
    content = data.removesuffix(_END_MARKER)
    num_nuls = len(content) - len(content.rstrip(b"\x00"))
    return data if num_nuls <= 3 else content[: len(content) - num_nuls + 3] + _END_MARKER


def repaired_scan(data: bytes) -> bytes | None:
    """Return a sequential JPEG with a legal scan header, None if it needs no repair.

    Early 12-bit encoders left the spectral range of the scan at 0..0, which libjpeg refuses; a sequential scan has
    only one legal range.
    """
    if not data.startswith(_START_OF_IMAGE):
        return None
    is_sequential = False
    for marker, start, length in _segments(data):
        is_sequential |= marker in (0xC0, 0xC1)
        if marker == _START_OF_SCAN:
            tail = start + length - len(_SEQUENTIAL_SCAN)
            if not is_sequential or data[tail : start + length] == _SEQUENTIAL_SCAN:
                return None
            return data[:tail] + _SEQUENTIAL_SCAN + data[start + length :]
    return None


def _start(data: bytes) -> int:
    """Return where the codestream begins: behind the boxes of a JP2 file, not allowed in DICOM and met."""
    return max(0, data.find(_START_OF_CODESTREAM + _SIZE_SEGMENT)) if data.startswith(_JP2_BOX) else 0


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and length of the content of each JPEG header segment, up to the first scan's."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big") - 2
        yield marker, position + 4, length
        if marker == _START_OF_SCAN or length < 0:
            return
        position += 4 + length


def _jpeg2000_header(data: bytes) -> FrameHeader | None:
    if data[2:4] != _SIZE_SEGMENT:
        return None
    right, bottom, left, top = struct.unpack(">4L", data[8:24])
    components, depth = struct.unpack(">HB", data[40:43])
    return FrameHeader(
        "jpeg-2000", bottom - top, right - left, components, (depth & 0x7F) + 1, is_signed=bool(depth & 0x80)
    )


def _jpeg_header(data: bytes) -> FrameHeader | None:
    for marker, start, _ in _segments(data):
        if marker in _CODINGS:
            precision, rows, columns, components = struct.unpack(">BHHB", data[start : start + 6])
            return FrameHeader(_CODINGS[marker], rows, columns, components, precision)
    return None


def _jpeg_end(data: bytes, position: int) -> int | None:
    while found := _AFTER_SCAN.search(data, position):
        if found.group() == _END_MARKER:
            return found.end()
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return None


def _jpeg2000_end(data: bytes, start: int) -> int | None:
    position = start + 2
    while position + 4 <= len(data) and data[position : position + 2] not in (_START_OF_TILE_PART, _END_MARKER):
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    while data.startswith(_START_OF_TILE_PART, position):
        length = int.from_bytes(data[position + 6 : position + 10], "big")
        # Zero: the last tile-part lasts to the end. One that points elsewhere is wrong, or the data is cut.
        is_known = length >= 14 and data[position + length : position + length + 2] in (
            _START_OF_TILE_PART,
            _END_MARKER,
        )
        position = position + length if is_known else data.find(_END_MARKER, position + 12)
    return position + 2 if position >= 0 and data.startswith(_END_MARKER, position) else None
