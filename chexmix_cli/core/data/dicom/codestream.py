"""Size of a compressed frame as its own codestream states it, read before any decoder allocates for it.

Covers what DICOM encapsulates: JPEG and JPEG-LS (start-of-frame segment), JPEG 2000 and HTJ2K (SIZ segment).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_START_OF_IMAGE = b"\xff\xd8"
_START_OF_CODESTREAM = b"\xff\x4f"
_SIZE_SEGMENT = b"\xff\x51"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
#: SOF0..SOF15 without DHT, JPG and DAC, and JPEG-LS's SOF55.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_END_MARKER = b"\xff\xd9"
_START_OF_SCAN = 0xDA
#: Coefficients 0 to 63, no successive approximation.
_SEQUENTIAL_SCAN = b"\x00\x3f\x00"


class FrameSize(NamedTuple):
    """Rows, columns and components of a frame."""

    rows: int
    columns: int
    components: int


def frame_size(data: bytes) -> FrameSize | None:
    """Return what a codestream states, None if it is none of these formats or damaged before it says."""
    try:
        if data.startswith(_JP2_BOX):  # the file format around the codestream; not allowed in DICOM, and met
            data = data[max(0, data.find(_START_OF_CODESTREAM + _SIZE_SEGMENT)) :]
        if data.startswith(_START_OF_CODESTREAM):
            return _jpeg2000_size(data)
        if data.startswith(_START_OF_IMAGE):
            return _jpeg_size(data)
    except struct.error:
        return None
    return None


def is_complete(data: bytes) -> bool:
    """Tell whether a codestream has its end marker, fill bytes aside. OpenJPEG decodes a cut one without complaint."""
    return data[-64:].rstrip(b"\x00\xff").endswith(b"\xd9") and _END_MARKER in data[-64:]


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


def _jpeg2000_size(data: bytes) -> FrameSize | None:
    if data[2:4] != _SIZE_SEGMENT:
        return None
    right, bottom, left, top = struct.unpack(">4L", data[8:24])
    (components,) = struct.unpack(">H", data[40:42])
    return FrameSize(bottom - top, right - left, components)


def _jpeg_size(data: bytes) -> FrameSize | None:
    for marker, start, _ in _segments(data):
        if marker in _FRAME_MARKERS:
            return FrameSize(*struct.unpack(">HHB", data[start + 1 : start + 6]))
    return None
