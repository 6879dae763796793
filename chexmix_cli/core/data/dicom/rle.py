"""DICOM's run-length encoding (PS3.5 annex G), decoded up to the size that the header announces and no further.

pydicom's decoder inflates whatever the runs say, and pylibjpeg-rle's aborts with a panic outside Python's exceptions.
"""

from __future__ import annotations

import struct

from chexmix_cli.core.errors import DataError, Reason

_HEADER_BYTES = 64
_MAX_SEGMENTS = 15


def decode_rle(frame: bytes, *, num_pixels: int, sample_bytes: int, samples: int) -> bytes:
    """Return a frame as little-endian samples, one plane (all pixels of a sample) after the other.

    Raises:
        DataError: ``CORRUPT`` if the segments do not fit the header, ``SHORT_PIXELS`` if one ends early.
    """
    if len(frame) < _HEADER_BYTES:
        raise DataError(Reason.SHORT_PIXELS, "the compressed frame ends early")
    num_segments, *starts = struct.unpack("<16L", frame[:_HEADER_BYTES])
    if num_segments != samples * sample_bytes or num_segments > _MAX_SEGMENTS:
        raise DataError(
            Reason.CORRUPT, f"the compressed frame has {num_segments} segments", expected=f"{samples * sample_bytes}"
        )
    ends = [*starts[1:num_segments], len(frame)]
    if starts[0] < _HEADER_BYTES or any(start > end for start, end in zip(starts, ends, strict=False)):
        raise DataError(Reason.CORRUPT, "the segments of the compressed frame overlap")
    decoded = bytearray(num_pixels * sample_bytes * samples)
    for number, (start, end) in enumerate(zip(starts, ends, strict=False)):
        # The first segment of a sample holds its most significant bytes.
        sample, significance = divmod(number, sample_bytes)
        first = sample * num_pixels * sample_bytes + (sample_bytes - 1 - significance)
        last = (sample + 1) * num_pixels * sample_bytes
        decoded[first:last:sample_bytes] = _decode_segment(frame[start:end], num_pixels)
    return bytes(decoded)


def _decode_segment(data: bytes, num_bytes: int) -> bytes:
    decoded, position = bytearray(), 0
    while len(decoded) < num_bytes and position + 1 < len(data):
        control = data[position]
        if control < 128:
            decoded += data[position + 1 : position + 2 + control]
            position += 2 + control
        elif control > 128:
            decoded += data[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    if len(decoded) < num_bytes:
        raise DataError(Reason.SHORT_PIXELS, "the compressed frame ends early")
    return bytes(decoded[:num_bytes])
