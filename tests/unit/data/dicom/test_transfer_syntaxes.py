"""The same film in every encoding that can be written here, and the encodings that only real files bring."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from chexmix_cli.core.data.dicom import decoders
from chexmix_cli.core.data.dicom.codestream import end_of_stream, frame_header, repaired_scan
from chexmix_cli.core.data.dicom.file import parse_header, parse_whole
from chexmix_cli.core.data.dicom.rle import decode_rle
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

WINDOW = {"WindowCenter": 15000, "WindowWidth": 30000, "PhotometricInterpretation": "MONOCHROME1"}
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def film_dataset(dataset_of, pixels):
    bits = 15 if pixels.itemsize == 2 else 8
    return dataset_of(pixels, BitsStored=bits, **WINDOW)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_native_encodings(dataset_of, file_bytes, small_film, syntax, tmp_path):
    path = tmp_path / "film"
    dataset = film_dataset(dataset_of, small_film)
    expected = decoded(file_bytes(dataset), path)
    if syntax is ExplicitVRBigEndian:
        dataset.PixelData = small_film.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(decoded(file_bytes(dataset), path), expected)


def decoded(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    return np.asarray(load_image(Source(path), "voi", InputSettings()).image)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint8, np.int16])
def test_lossless_compression(dataset_of, file_bytes, small_film, syntax, dtype, tmp_path):
    pixels = (small_film >> 7).astype(dtype) if dtype is np.uint8 else small_film.astype(dtype)
    dataset = film_dataset(dataset_of, pixels)
    expected = decoded(file_bytes(dataset), tmp_path / "film")
    dataset.compress(syntax)
    assert np.array_equal(decoded(file_bytes(dataset), tmp_path / "film"), expected)


def test_rle_of_colour(dataset_of, file_bytes, tmp_path):
    y, x = np.mgrid[0:64, 0:64]
    dataset = dataset_of(np.stack([x * 3, y * 3, x + y], axis=2).astype(np.uint8))
    expected = decoded(file_bytes(dataset), tmp_path / "film")
    dataset.compress(RLELossless)
    assert np.array_equal(decoded(file_bytes(dataset), tmp_path / "film"), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_baseline(dataset_of, file_bytes, small_film, mode, tmp_path):
    grey = Image.fromarray((small_film >> 7).astype(np.uint8)).convert(mode)
    stream = BytesIO()
    grey.save(stream, "JPEG", quality=95)
    pixels = np.asarray(grey)
    dataset = dataset_of(pixels, PixelData=encapsulate([stream.getvalue()]))
    if mode == "RGB":
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    shown = decoded(file_bytes(dataset), tmp_path / "film").astype(int)
    assert np.abs(shown - np.asarray(grey.convert("L"))).mean() < 2


def test_second_frame_of_a_compressed_image(dataset_of, file_bytes, small_film, tmp_path):
    frames = [small_film, small_film[::-1].copy()]
    for syntax in (RLELossless, JPEG2000Lossless):
        dataset = film_dataset(dataset_of, frames[0])
        dataset.NumberOfFrames, dataset.PixelData = 2, b"".join(frame.tobytes() for frame in frames)
        dataset.compress(syntax)
        (tmp_path / "film").write_bytes(file_bytes(dataset))
        shown = [
            np.asarray(load_image(Source(tmp_path / "film"), "voi", InputSettings(frame=number)).image)
            for number in (0, 1)
        ]
        assert np.array_equal(shown[0], shown[1][::-1])
        assert not np.array_equal(shown[0], shown[1])


def test_second_frame_by_an_extended_offset_table(dataset_of, file_bytes, small_film, tmp_path):
    frames = []
    for pixels in (small_film, small_film[::-1].copy()):
        dataset = film_dataset(dataset_of, pixels)
        dataset.compress(JPEG2000Lossless)
        frames.append(get_frame(dataset.PixelData, 0, number_of_frames=1))
    expected = decoded(file_bytes(dataset), tmp_path / "film")
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    dataset.NumberOfFrames = 2
    (tmp_path / "film").write_bytes(file_bytes(dataset))
    found = load_image(Source(tmp_path / "film"), "voi", InputSettings(frame=1)).image
    assert np.array_equal(np.asarray(found), expected)


def test_four_encodings_of_the_real_film_agree(rg1_path):
    pictures = {
        name: np.asarray(load_image(Source(rg1_path(name)), "voi", InputSettings()).image).astype(int)
        for name in ("UNCR", "UNCI", "J2KR", "J2KI")
    }
    assert pictures["UNCR"].shape == (1955, 1841)
    assert np.array_equal(pictures["UNCR"], pictures["J2KR"])  # reversible
    assert np.array_equal(pictures["UNCI"], pictures["J2KI"])  # the irreversible one, decompressed
    assert np.abs(pictures["UNCR"] - pictures["J2KI"]).max() <= 3
    stored = pydicom.dcmread(rg1_path("UNCR")).pixel_array.astype(np.float64)
    windowed = np.clip((stored - 14999.5) / 29999 + 0.5, 0, 1)
    assert np.array_equal(pictures["UNCR"], 255 - np.rint(windowed * 255).astype(int))


#: WG-04's film RG3 in compressions that nothing here can write; lossless ones have to equal the plain film.
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("RG3_JLSL", 0), ("RG3_RLE", 0), ("RG3_J2KR", 0), ("RG3_J2KI", 1.0), ("RG3_JLSN", 1.0), ("RG3_JPLY", 1.0)],
)
def test_compressions_of_real_files(shared, rg1_path, name, tolerance):
    plain = rg1_path("UNCR").with_name("RG3_UNCR.dcm")
    expected = np.asarray(load_image(Source(plain), "voi", InputSettings()).image).astype(int)
    found = load_image(Source(shared / "data" / "dicom" / "other" / f"{name}.dcm"), "voi", InputSettings()).image
    assert np.abs(np.asarray(found) - expected).mean() <= tolerance


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit", "padded"])
def test_pydicoms_own_small_file_in_its_encodings(name):
    expected, found = (
        np.asarray(load_image(Source(Path(str(get_testdata_file(file)))), "voi", InputSettings()).image)
        for file in ("MR_small.dcm", f"MR_small_{name}.dcm")
    )
    assert np.array_equal(found, expected)


def test_lossless_jpeg_of_a_real_file():
    path = Path(str(get_testdata_file("JPGLosslessP14SV1_1s_1f_8b.dcm", download=False)))
    stored = pydicom.dcmread(path).pixel_array
    # It has a window, so greys are compared by their order: one grey a stored value, brighter for larger ones.
    shown = np.asarray(load_image(Source(path), "voi", InputSettings()).image)
    pairs = np.unique(np.stack([stored.ravel(), shown.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1] > 100
    assert (np.diff(pairs[1].astype(int)) >= 0).all()


def test_no_preamble_and_no_meta(dataset_of, file_bytes, small_film, tmp_path):
    dataset = film_dataset(dataset_of, small_film)
    expected = decoded(file_bytes(dataset), tmp_path / "film")
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
        data = file_bytes(dataset)
        meta_end = 144 + struct.unpack("<L", data[140:144])[0]
        assert np.array_equal(decoded(data[132:], tmp_path / "film"), expected)  # meta group, no preamble
        assert np.array_equal(decoded(data[meta_end:], tmp_path / "film"), expected)  # the bare data set


def test_compressed_without_a_transfer_syntax_is_not_guessed(dataset_of, file_bytes, small_film, tmp_path):
    dataset = film_dataset(dataset_of, small_film)
    dataset.compress(JPEG2000Lossless)
    data = file_bytes(dataset)
    meta_end = 144 + struct.unpack("<L", data[140:144])[0]
    with pytest.raises(DataError) as caught:
        decoded(data[meta_end:], tmp_path / "film")
    assert caught.value.reason in (Reason.UNSUPPORTED_PIXELS, Reason.SHORT_PIXELS)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian]
)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_cut_files_are_short_never_filled_up(dataset_of, file_bytes, small_film, syntax, share, tmp_path):
    dataset = film_dataset(dataset_of, small_film)
    if syntax.is_encapsulated:
        dataset.compress(syntax)
    dataset.file_meta.TransferSyntaxUID = syntax
    data = file_bytes(dataset)
    with pytest.raises(DataError) as caught:
        decoded(data[: int(len(data) * share)], tmp_path / "film")
    is_deflated = syntax == DeflatedExplicitVRLittleEndian
    assert caught.value.reason is (Reason.CORRUPT if is_deflated else Reason.SHORT_PIXELS)


def test_a_frame_cut_inside_whole_items_is_short(dataset_of, file_bytes, small_film, tmp_path):
    dataset = film_dataset(dataset_of, small_film)
    dataset.compress(JPEG2000Lossless)
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    with pytest.raises(DataError, match="ends early") as caught:
        decoded(file_bytes(dataset), tmp_path / "film")
    assert caught.value.reason is Reason.SHORT_PIXELS
    dataset.PixelData = encapsulate([b"\0" * 400])
    with pytest.raises(DataError, match="does not state its size"):
        decoded(file_bytes(dataset), tmp_path / "film")


def test_a_frame_larger_than_its_header_is_not_decoded(dataset_of, file_bytes, small_film, tmp_path):
    dataset = film_dataset(dataset_of, small_film)
    dataset.compress(JPEG2000Lossless)
    dataset.Rows = 100
    with pytest.raises(DataError, match=r"the compressed frame has 184 x 194 px.*expected 184 x 100"):
        decoded(file_bytes(dataset), tmp_path / "film")


def test_missing_plugin_is_named(dataset_of, file_bytes, small_film, tmp_path, monkeypatch):
    dataset = film_dataset(dataset_of, small_film)
    dataset.compress(JPEG2000Lossless)
    decoder = get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(type(decoder), "available_plugins", ("pillow",))
    with pytest.raises(DataError, match="no decoder") as caught:
        decoded(file_bytes(dataset), tmp_path / "film")
    assert caught.value.code == "NEEDS_PLUGIN:pylibjpeg-openjpeg"
    assert caught.value.hint == "pip install pylibjpeg-openjpeg"


def test_every_plugin_named_is_a_dependency(repository):
    declared = (repository / "pyproject.toml").read_text(encoding="utf-8")
    for _, package in decoders._DECODERS.values():
        assert f'"{package}>=' in declared


def test_video_is_refused(dataset_of, file_bytes, small_film, tmp_path):
    dataset = film_dataset(dataset_of, small_film)
    dataset.compress(JPEG2000Lossless)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    with pytest.raises(DataError, match="MPEG2 Main Profile / Main Level .* is not decoded") as caught:
        decoded(file_bytes(dataset), tmp_path / "film")
    assert caught.value.reason is Reason.UNSUPPORTED_PIXELS


def test_deflated_bomb_is_not_inflated(dataset_of, file_bytes, tmp_path):
    dataset = dataset_of(np.zeros((4000, 4000), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = file_bytes(dataset)
    assert len(data) < 100_000  # 32 MB inflated
    for parse in (lambda: parse_header(BytesIO(data), 1 << 20), lambda: parse_whole(data, 1 << 20)):
        with pytest.raises(DataError) as caught:
            parse()
        assert caught.value.reason is Reason.TOO_LARGE


def test_run_lengths_stop_where_the_header_says():
    bomb = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * 100_000  # 12.8 million bytes
    assert decode_rle(bomb, num_pixels=500, sample_bytes=1, samples=1) == b"\0" * 500


def test_run_lengths_by_hand():
    # Literal of three, a no-op, a run of four; the high bytes come first.
    high, low = b"\x02\x01\x02\x03\x80\xfd\x09", b"\xfa\x07"
    header = struct.pack("<16L", 2, 64, 64 + len(high), *[0] * 13)
    expected = np.array([1, 2, 3, 9, 9, 9, 9], "<u2") * 256 + 7
    assert decode_rle(header + high + low, num_pixels=7, sample_bytes=2, samples=1) == expected.astype("<u2").tobytes()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"\0" * 10, "ends early"),
        (struct.pack("<16L", 2, 64, 70, *[0] * 13) + b"\0" * 20, "has 2 segments; expected 1"),
        (struct.pack("<16L", 1, 9999, *[0] * 14) + b"\0" * 20, "overlap"),
        (struct.pack("<16L", 1, 10, *[0] * 14) + b"\0" * 20, "overlap"),
        (struct.pack("<16L", 1, 64, *[0] * 14) + b"\xfe\x01", "ends early"),
    ],
)
def test_damaged_run_lengths(frame, message):
    with pytest.raises(DataError, match=message):
        decode_rle(frame, num_pixels=100, sample_bytes=1, samples=1)


def test_codestream_sizes():
    for coding, kind, options in (
        ("jpeg", "JPEG", {}),
        ("jpeg", "JPEG", {"progressive": True, "comment": b"\xff\xd9\xff\xd8\xff"}),
        ("jpeg-2000", "JPEG2000", {"no_jp2": True}),
        ("jpeg-2000", "JPEG2000", {"no_jp2": True, "tile_size": (32, 32), "comment": b"\xff\xd9", "plt": True}),
        ("jpeg-2000", "JPEG2000", {}),
    ):
        stream = BytesIO()
        Image.new("RGB", (70, 40)).save(stream, kind, **options)
        data = stream.getvalue()
        assert frame_header(data) == (coding, 40, 70, 3, 8, False)
        assert end_of_stream(data) == len(data)
        assert end_of_stream(data + b"\0") == len(data)
        assert end_of_stream(data[:-10]) is None
    assert frame_header(b"") is None
    assert frame_header(b"\xff\xd8\xff") is None
    assert frame_header(b"\xff\x4f\xff\x51\0\0") is None


def test_scan_headers_are_repaired_only_where_they_are_wrong():
    stream = BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(stream, "JPEG")
    data = stream.getvalue()
    assert repaired_scan(data) is None
    start = data.index(b"\xff\xda") + 4
    broken = data[: start + 3] + b"\0\0\0" + data[start + 6 :]
    assert repaired_scan(broken) == data
    progressive = BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(progressive, "JPEG", progressive=True)
    assert repaired_scan(progressive.getvalue()) is None
    assert repaired_scan(b"\xff\x4f\xff\x51") is None
