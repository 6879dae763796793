"""Films packed by gzip, and formats that plain pictures come in beside PNG and JPEG: read, or refused by name."""

from __future__ import annotations

import gzip
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.sources import Source, inflate
from chexmix_cli.core.data.studies.inputs import study_of_file
from chexmix_cli.core.data.studies.study import Refusal
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

SETTINGS = InputSettings()


@pytest.fixture
def film(put):
    """Return a DICOM film."""
    return put("film.dcm")


def shown(source: Source) -> np.ndarray:
    return np.asarray(load_image(source, "voi", SETTINGS).image)


def test_a_film_packed_by_gzip_is_the_film(film, tmp_path):
    packed = tmp_path / "film.dcm.gz"
    content = film.read_bytes()
    packed.write_bytes(gzip.compress(content[:2000]) + gzip.compress(content[2000:]))  # parts may follow each other
    assert Source(packed).kind() == "dicom"
    assert np.array_equal(shown(Source(packed)), shown(Source(film)))
    assert not isinstance(study_of_file(packed, SETTINGS, "one"), Refusal)
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.write(packed, "film.dcm.gz")
    member = Source(tmp_path / "films.zip", "film.dcm.gz")
    assert member.kind() == "dicom"
    assert np.array_equal(shown(member), shown(Source(film)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"id,label\n1,2\n"), Reason.UNKNOWN_FORMAT),
        (b"\x1f\x8b\x08nonsense, and more of it", Reason.UNKNOWN_FORMAT),
        (gzip.compress(b"\0" * 128 + b"DICM" + bytes(range(256)) * 16)[:80], Reason.CORRUPT),
        (gzip.compress(b"\0" * 128 + b"DICM" + b"\0" * (8 << 20)), Reason.TOO_LARGE),
    ],
    # gzip writes the time, so of contents as names the workers would not agree.
    ids=["a table", "not gzip", "cut off", "too large"],
)
def test_other_gzip_files_are_refused(tmp_path, content, reason):
    path = tmp_path / "film.dcm.gz"
    path.write_bytes(content)
    refusal = study_of_file(path, SETTINGS, "one")
    assert isinstance(refusal, Refusal)
    assert refusal.error.reason is reason


def test_inflating_is_bounded():
    assert len(inflate(gzip.compress(b"\0" * 10_000) * 3, 15_000)) == 15_001
    with pytest.raises(DataError, match="cannot be inflated"):
        inflate(b"\x1f\x8b\x08nonsense, and more of it", 100)


def test_a_film_is_read_into_as_many_bytes_as_it_has_even_if_it_grows(tmp_path, monkeypatch):
    path = tmp_path / "film.png"
    content = b"first" * 1000
    path.write_bytes(content)
    tracemalloc.start()
    assert Source(path).read(1 << 30) == content
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    seek = BytesIO.seek

    class Growing(BytesIO):
        def seek(self, place, whence=0):
            found = seek(self, place, whence)
            if whence == 2:
                self.write(b"second" * 1000)
            return found

    monkeypatch.setattr(type(path), "open", lambda *_: Growing(content))
    assert Source(path).read(1 << 30) == content + b"second" * 1000
    with pytest.raises(DataError) as refused:
        Source(path).read(5001)
    assert refused.value.code == Reason.TOO_LARGE


def test_big_tiff(tmp_path, small_film):
    path = tmp_path / "film.tif"
    grey = (small_film >> 7).astype(np.uint8)
    tifffile.imwrite(path, grey, bigtiff=True, byteorder="<", photometric="minisblack")
    assert Source(path).kind() == "picture"
    assert np.array_equal(shown(Source(path)), grey)


@pytest.mark.parametrize("bits", [8, 16])
def test_bare_jpeg_2000(tmp_path, small_film, bits):
    path = tmp_path / "film.j2k"
    grey = (small_film >> 7).astype(np.uint8) if bits == 8 else small_film
    Image.fromarray(grey).save(path, "JPEG2000", no_jp2=True)
    assert path.read_bytes().startswith(b"\xff\x4f\xff\x51")
    Image.fromarray(grey).save(tmp_path / "film.png")
    assert np.array_equal(shown(Source(path)), shown(Source(tmp_path / "film.png")))


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        (b"\xff\x0a" + b"\7" * 200, "UNSUPPORTED_PIXELS:JPEG-XL", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\7" * 200, "UNSUPPORTED_PIXELS:JPEG-XL", "JPEG XL"),
        (b"MM\0+\0\x08\0\0" + b"\0" * 200, "UNSUPPORTED_PIXELS", "big-endian BigTIFF"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x40\0\x40\1\1\x11\0" + b"\7" * 200, "UNSUPPORTED_PIXELS", "JPEG-LS"),
        (b"\xff\xd8\xff\xc3\0\x0b\x0c\0\x40\0\x40\1\1\x11\0" + b"\7" * 200, "UNSUPPORTED_PIXELS", "lossless JPEG"),
        (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x40\0\x40\1\1\x11\0" + b"\7" * 200, "UNSUPPORTED_PIXELS", "JPEG of 12 bits"),
    ],
)
def test_formats_that_are_not_read_are_refused_by_name(tmp_path, content, code, named):
    path = tmp_path / "film.jpg"
    path.write_bytes(content)
    refusal = study_of_file(path, SETTINGS, "one")
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == code
    assert str(refusal.error).startswith(f"{named} is not read from a plain file")
    with pytest.raises(DataError, match=named):
        load_image(Source(path), "voi", SETTINGS)


def test_eight_bits_of_a_jpeg_with_a_long_profile(tmp_path, small_film):
    stream = BytesIO()
    grey = Image.fromarray((small_film >> 7).astype(np.uint8))
    grey.save(stream, "JPEG", icc_profile=b"\0" * (300 << 10))
    (tmp_path / "film.jpg").write_bytes(stream.getvalue())
    assert shown(Source(tmp_path / "film.jpg")).shape == small_film.shape


def test_a_member_of_an_archive_is_named_by_its_path(film, tmp_path):
    archive = tmp_path / "more!" / "films.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(film, "sub/a!b.dcm")
    named = Source.named(archive.parent / "films.zip!sub/a!b.dcm")
    assert named == Source(archive, "sub/a!b.dcm")
    assert named.read(1 << 20) == film.read_bytes()
    # A file that is really called so is that file.
    odd = tmp_path / "films.zip!a.dcm"
    odd.write_bytes(b"odd")
    assert Source.named(odd) == Source(odd)
    assert Source.named(tmp_path / "none.zip!a.dcm") == Source(tmp_path / "none.zip!a.dcm")
