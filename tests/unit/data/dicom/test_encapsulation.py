"""Compressed pixel data whose items, offset table or end are not as they should be: one film, and several."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLossless,
    RLELossless,
)

from chexmix_cli.core.data.dicom.codestream import end_of_stream, without_nuls
from chexmix_cli.core.data.dicom.decode import check_layout, decode
from chexmix_cli.core.data.dicom.encapsulation import frame_of
from chexmix_cli.core.data.dicom.file import parse_header, parse_whole
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

MAX_BYTES = 64 << 20
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def picture(seed: int, kind: str = "JPEG") -> bytes:
    grey = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    stream = BytesIO()
    Image.fromarray(grey).save(stream, kind, **({"no_jp2": True} if kind == "JPEG2000" else {"quality": 95}))
    return stream.getvalue()


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


def table(*offsets: int) -> bytes:
    return item(struct.pack(f"<{len(offsets)}L", *offsets))


ONE = picture(1) + b"\0" * (len(picture(1)) % 2)
HALF = len(ONE) // 4 * 2
HALVES = item(ONE[:HALF]) + item(ONE[HALF:])
SINGLE = {
    "as it should be": table(0) + item(ONE) + DELIMITER,
    "no delimiter": table() + item(ONE),
    "NULs for a delimiter": table() + item(ONE) + b"\0" * 8,
    "fewer NULs": table() + item(ONE) + b"\0" * 3,
    "an element behind it": table() + item(ONE) + b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\0\0",
    "delimiter with a length": table() + item(ONE) + b"\xfe\xff\xdd\xe0\xff\xff\xff\xff",
    "length beyond the file": table() + item(ONE)[:4] + b"\xff\xff\0\0" + ONE,
    "undefined length of an item": table() + item(ONE)[:4] + b"\xff\xff\xff\xff" + ONE + DELIMITER,
    "two fragments": table() + HALVES + DELIMITER,
    "no table": item(ONE) + DELIMITER,
    "no table, two fragments": HALVES + DELIMITER,
    "table counts from elsewhere": table(8) + item(ONE) + DELIMITER,
    "table of -1": table(0xFFFFFFFF) + HALVES + DELIMITER,
    "table of each fragment": table(0, HALF + 8) + HALVES + DELIMITER,
    "table of odd length": item(b"\0\0\0\0\0\0") + HALVES + DELIMITER,
    "NULs behind the end": table() + item(ONE + b"\0" * 500) + DELIMITER,
    "anything behind the end": table() + item(ONE + bytes(range(256))) + DELIMITER,
    "a fragment of NULs": table() + item(ONE) + item(b"\0" * 300) + DELIMITER,
    "an empty fragment": table() + item(b"") + item(ONE) + DELIMITER,
    "NULs in front": table() + item(b"\0\0" + ONE) + DELIMITER,
    "no items": ONE,
}


@pytest.fixture
def decoded(dataset_of, file_bytes):
    """Return a function from pixel data and attributes to a frame, through a file that ends behind the data."""

    def through_file(value: bytes, syntax: UID = JPEGBaseline8Bit, frame: int = 0, **attributes: object) -> np.ndarray:
        dataset = dataset_of(np.zeros((64, 64), np.uint8), **{"PixelData": None, **attributes})
        dataset.file_meta.TransferSyntaxUID = syntax
        data = file_bytes(dataset) + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + value
        settings = InputSettings(frame=frame)
        check_layout(parse_header(BytesIO(data), MAX_BYTES), settings)
        file = parse_whole(data, MAX_BYTES)
        return decode(file, check_layout(file, settings), frame).array

    return through_file


@pytest.mark.parametrize("value", SINGLE.values(), ids=SINGLE)
def test_all_fragments_of_a_single_frame_are_the_frame(decoded, value):
    assert np.array_equal(decoded(value), np.asarray(Image.open(BytesIO(ONE))))


def test_bytes_of_a_delimiter_inside_a_fragment_are_data(decoded):
    start = ONE.index(b"\xff\xdb")
    comment = DELIMITER + b"\xff\xd9"
    stream = ONE[:start] + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + ONE[start:]
    assert end_of_stream(stream) == len(stream.rstrip(b"\0"))
    assert np.array_equal(decoded(table() + item(stream) + DELIMITER), decoded(SINGLE["as it should be"]))


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (table() + item(ONE)[: HALF + 8], Reason.SHORT_PIXELS, "ends early"),
        (table() + item(ONE[:HALF]) + DELIMITER, Reason.SHORT_PIXELS, "ends early"),
        (table() + item(ONE[:HALF]), Reason.SHORT_PIXELS, "ends early"),
        (table()[:-2], Reason.SHORT_PIXELS, "within its pixel data"),
        (table() + DELIMITER, Reason.NO_PIXELS, "empty"),
        (table() + item(ONE) + item(picture(2)) + DELIMITER, Reason.CORRUPT, "more than one picture"),
        (table() + item(ONE + picture(2)) + DELIMITER, Reason.CORRUPT, "more than one picture"),
        (table() + item(b"\xff\x0a" + ONE) + DELIMITER, Reason.UNSUPPORTED_PIXELS, "JPEG XL"),
    ],
)
def test_what_is_cut_or_holds_more_than_it_says_is_refused(decoded, value, reason, message):
    with pytest.raises(DataError, match=message) as caught:
        decoded(value)
    assert caught.value.reason is reason


FRAMES = [picture(seed) + b"\0" * (len(picture(seed)) % 2) for seed in (1, 2, 3)]
ITEMS = b"".join(map(item, FRAMES))
STARTS = np.cumsum([0, *(len(frame) + 8 for frame in FRAMES)])[:3].tolist()
SPLIT = item(FRAMES[0]) + item(FRAMES[1][:100]) + item(FRAMES[1][100:]) + item(FRAMES[2])
SPLIT_STARTS = [0, STARTS[1], STARTS[2] + 8]
SEVERAL = {
    "table": table(*STARTS) + ITEMS + DELIMITER,
    "no table": table() + ITEMS + DELIMITER,
    "no item of a table": ITEMS + DELIMITER,
    "no delimiter": table() + ITEMS,
    "wrong table": table(8, 9, 10) + ITEMS + DELIMITER,
    "table that repeats": table(0, 0, 0) + ITEMS + DELIMITER,
    "table with an entry too many": table(*STARTS, STARTS[2] + len(FRAMES[2]) + 8) + ITEMS + DELIMITER,
    "fragments and table": table(*SPLIT_STARTS) + SPLIT + DELIMITER,
    "fragments": table() + SPLIT + DELIMITER,
    "fragments and a table of each": table(0, *SPLIT_STARTS[1:], 999) + SPLIT + DELIMITER,
}


@pytest.mark.parametrize("value", SEVERAL.values(), ids=SEVERAL)
def test_several_frames_are_told_apart_by_a_right_table_or_their_own_starts(decoded, value):
    for number, frame in enumerate(FRAMES):
        found = decoded(value, frame=number, NumberOfFrames=3)
        assert np.array_equal(found, np.asarray(Image.open(BytesIO(frame))))


@pytest.mark.parametrize(
    ("value", "num_frames", "reason"),
    [
        (table() + ITEMS, 2, Reason.CORRUPT),
        (table() + ITEMS, 4, Reason.CORRUPT),
        (table() + SPLIT, 4, Reason.SHORT_PIXELS),  # as many fragments as frames, and one ends early
        (table() + ITEMS[:-20], 3, Reason.SHORT_PIXELS),
        (table() + ITEMS + b"\xfc\xff\xfc\xffOB\0\0", 3, Reason.CORRUPT),
    ],
)
def test_several_frames_that_leave_a_choice_are_refused(decoded, value, num_frames, reason):
    with pytest.raises(DataError) as caught:
        decoded(value, frame=1, NumberOfFrames=num_frames)
    assert caught.value.reason is reason


def test_run_lengths_without_a_table():
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"\xc1\x07" * 64
    for value in (
        table() + item(frame),
        item(frame),
        table(0) + item(frame[:70]) + item(frame[70:]),
        table(3) + item(frame),
    ):
        assert frame_of(value, num_frames=1, frame=0) == frame
    with pytest.raises(DataError, match="the file ends within its pixel data"):
        frame_of((table() + item(frame))[:-10], num_frames=1, frame=0)


@pytest.mark.parametrize("stated", [JPEGBaseline8Bit, JPEGLossless, JPEG2000, RLELossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_stream_decides_how_it_is_decoded(decoded, stated, kind):
    value = table() + item(picture(1, kind)) + DELIMITER
    assert np.array_equal(decoded(value, stated), np.asarray(Image.open(BytesIO(picture(1, kind)))))


def test_compressed_data_in_an_uncompressed_syntax_is_not_read_as_pixels(decoded):
    with pytest.raises(DataError, match="does not say how") as caught:
        decoded(table() + item(b"\7" * 64 * 64) + DELIMITER, ExplicitVRLittleEndian)
    assert caught.value.reason is Reason.UNSUPPORTED_PIXELS


def test_nuls_before_the_end_marker_of_jpeg_ls():
    assert without_nuls(b"\1\0\0\0\0\0\xff\xd9") == b"\1\0\0\0\xff\xd9"
    assert without_nuls(b"\1\0\0\xff\xd9") == b"\1\0\0\xff\xd9"


@pytest.mark.parametrize("window_bits", [-15, 15, 31], ids=["deflate", "zlib", "gzip"])
def test_deflated_data_with_either_header(dataset_of, file_bytes, small_film, window_bits):

    dataset = dataset_of(small_film, BitsStored=15)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = file_bytes(dataset)
    meta_end = 144 + struct.unpack("<L", data[140:144])[0]
    plain = zlib.decompress(data[meta_end:], -15)
    packer = zlib.compressobj(wbits=window_bits)
    data = data[:meta_end] + packer.compress(plain) + packer.flush()
    file = parse_whole(data, MAX_BYTES)
    assert np.array_equal(decode(file, check_layout(file, InputSettings()), 0).array, small_film)
    with pytest.raises(DataError, match="ends early"):
        parse_whole(data[:-2000], MAX_BYTES)
