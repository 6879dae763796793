"""Encapsulated pixel data: from its items to one frame (PS3.5 annex A.4).

Item lengths decide, never bytes that look like a delimiter. All fragments of a single frame belong to it, so that
neither its offset table nor what stands behind its end marker is needed. Where there are several frames, the table
decides if it fits the fragments, else the frames' own start markers; what they leave open is refused.
"""

from __future__ import annotations

from typing import NamedTuple

from chexmix_cli.core.data.dicom.codestream import end_of_stream, starts_stream
from chexmix_cli.core.errors import DataError, Reason

_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0"
#: Of the header of a run-length encoded frame: the offset of its first segment, behind that of 1 to 15 of them.
_RLE_HEADER_BYTES, _MAX_RLE_SEGMENTS = 64, 15


class _Fragment(NamedTuple):
    """An item: where its tag, its content and its end are in the pixel data."""

    tag: int
    start: int
    end: int


def frame_of(value: bytes, *, num_frames: int, frame: int) -> bytes:
    """Return one compressed frame, without the filling behind its end marker.

    Args:
        value: of the pixel element, from its first item on; it may go on behind its delimiter.
        num_frames: by the header.
        frame: number of the frame, from 0.

    Raises:
        DataError: ``SHORT_PIXELS`` if the frame is cut, ``NO_PIXELS`` if there is none, ``CORRUPT`` if the frames
            cannot be told apart.
    """
    fragments, is_cut, is_sound = _fragments(value)
    table: list[int] = []
    if starts_stream(value):  # not even an item
        fragments = [_Fragment(0, 0, len(value))]
    elif len(fragments) > 1 and not _starts_frame(value, fragments[0]):
        first = fragments.pop(0)
        table = _offsets(value[first.start : first.end])
    fragments = [fragment for fragment in fragments if fragment.end > fragment.start]
    if not fragments:
        if _SEQUENCE_DELIMITER in value:
            raise DataError(Reason.NO_PIXELS, "the pixel data is empty")
        raise DataError(Reason.SHORT_PIXELS, "the file ends within its pixel data")
    if num_frames > 1:
        if is_cut:
            raise DataError(Reason.SHORT_PIXELS, "the file ends within its pixel data")
        if not is_sound:
            raise DataError(Reason.CORRUPT, "the frames cannot be told apart", expected="whole items")
        fragments = _frame_fragments(value, fragments, table, num_frames, frame)
    stream = b"".join(value[fragment.start : fragment.end] for fragment in fragments)
    for start in (stream, stream.lstrip(b"\x00")):
        if starts_stream(start):
            return _trimmed(start)
    if is_cut:  # run lengths have no end marker that would tell whether it is the length that is wrong
        raise DataError(Reason.SHORT_PIXELS, "the file ends within its pixel data")
    return stream


def _fragments(value: bytes) -> tuple[list[_Fragment], bool, bool]:
    """Return the items, whether the last one is cut, and whether they end as they may.

    Files without the delimiter are met, and such as have NULs in its place.
    """
    found: list[_Fragment] = []
    position = 0
    while value.startswith(_ITEM, position) and position + 8 <= len(value):
        start = position + 8
        end = start + int.from_bytes(value[position + 4 : start], "little")
        found.append(_Fragment(position, start, min(end, len(value))))
        position = end
    rest = value[position : position + 8]
    return found, position > len(value), rest.startswith(_SEQUENCE_DELIMITER) or not rest.strip(b"\x00")


def _starts_frame(value: bytes, fragment: _Fragment) -> bool:
    """Tell whether an item is compressed data and no offset table, which some writers leave out."""
    head = value[fragment.start : min(fragment.end, fragment.start + _RLE_HEADER_BYTES)]
    if len(head) < _RLE_HEADER_BYTES:
        return starts_stream(head)
    num_segments, first = (int.from_bytes(head[at : at + 4], "little") for at in (0, 4))
    return starts_stream(head) or (0 < num_segments <= _MAX_RLE_SEGMENTS and first == _RLE_HEADER_BYTES)


def _offsets(table: bytes) -> list[int]:
    return [int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table) - 3, 4)]


def _frame_fragments(
    value: bytes, fragments: list[_Fragment], table: list[int], num_frames: int, frame: int
) -> list[_Fragment]:
    """Return the fragments of one of several frames."""
    tags = [fragment.tag - fragments[0].tag for fragment in fragments]
    is_table_right = len(table) == num_frames and table[0] == 0 and set(table) <= set(tags) and table == sorted(table)
    if is_table_right and len(set(table)) == num_frames:
        starts = [tags.index(offset) for offset in table]
    elif len(fragments) == num_frames:
        starts = list(range(num_frames))
    else:
        starts = [at for at, fragment in enumerate(fragments) if starts_stream(value[fragment.start : fragment.end])]
    if len(starts) != num_frames or starts[0] != 0:
        raise DataError(
            Reason.CORRUPT,
            f"the frames cannot be told apart: {len(fragments)} fragments",
            expected=f"{num_frames} frames, as in the header",
        )
    starts.append(len(fragments))
    return fragments[starts[frame] : starts[frame + 1]]


def _trimmed(stream: bytes) -> bytes:
    end = end_of_stream(stream)
    if end is None:
        raise DataError(Reason.SHORT_PIXELS, "the compressed frame ends early")
    if starts_stream(stream[end:]) or starts_stream(stream[end:].lstrip(b"\x00")):
        raise DataError(Reason.CORRUPT, "more than one picture stands where the header announces one frame")
    return stream[:end]
