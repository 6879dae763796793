"""Lies of films and archives: little on disk and much in memory, paths that lead out, two sizes of one picture."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from film_parsers import film
from lies import Lie
from PIL import Image

from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.studies.inputs import Refusal, discover
from chexmix_cli.core.settings.inference import InputSettings

#: Below the defaults, so that what is refused at the bound is made and read quickly.
_SETTINGS = InputSettings(max_file_mb=16, max_pixels=4_000_000)
_GIB = 1 << 30


@cache
def _mebibyte() -> bytes:
    """Return a mebibyte of zeros as blocks of deflate, which may be put behind each other: no block looks back."""
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)


def _deflated(start: bytes, num_zeros: int) -> bytes:
    """Return bytes and many zeros behind them, deflated."""
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    first = deflater.compress(start + bytes(num_zeros & 0xFFFFF)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return first + _mebibyte() * (num_zeros >> 20) + b"\x03\x00"


def _zeros(num_zeros: int) -> bytes:
    """Return zeros as zlib packs them, with their Adler-32."""
    return b"\x78\xda" + _deflated(b"", num_zeros) + struct.pack(">HH", num_zeros % 65521, 1)


def _tell(name: str, make: Callable[[], bytes]) -> Callable[[Path], Callable[[], object]]:
    """Return a lie of one file, read as any command reads it: walked, its header examined, its pixels decoded."""

    def tell(folder: Path) -> Callable[[], object]:
        path = folder / name
        path.write_bytes(make())
        return lambda: _read(path)

    return tell


def _read(path: Path) -> None:
    before = set(path.parent.parent.rglob("*"))
    refused = None
    for study in discover([str(path)], _SETTINGS):
        if isinstance(study, Refusal):
            refused = study.error
        else:
            load_image(study.chosen.source, "voi", _SETTINGS)
    assert set(path.parent.parent.rglob("*")) == before, "files were made"
    if refused is not None:
        raise refused


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, pixels: bytes, *, bits: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + extra
    return start + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _tiff(tags: Sequence[tuple[int, int, int]], data: bytes) -> bytes:
    """Return a TIFF of one page: tags of one value each, type SHORT or LONG; ``-1`` is where the data lie."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, kind, 1, start if value == -1 else value) for tag, kind, value in sorted(tags)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + struct.pack("<I", 0) + data


def _strip(side: int, data: bytes, *, bits: int = 16, samples: int = 1) -> bytes:
    return _tiff(
        [(256, 4, side), (257, 4, side), (258, 3, bits), (259, 3, 8), (262, 3, 1), (273, 4, -1), (277, 3, samples),
         (278, 4, side), (279, 4, len(data))], data,
    )  # fmt: skip


def _tile(side: int) -> bytes:
    data = zlib.compress(bytes(4096))
    return _tiff(
        [(256, 3, 64), (257, 3, 64), (258, 3, 16), (259, 3, 8), (262, 3, 1), (277, 3, 1), (322, 4, side),
         (323, 4, side), (324, 4, -1), (325, 4, len(data))], data,
    )  # fmt: skip


def _picture(form: str, side: int, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8 if mode == "L" else np.uint16)).save(stream, form)
    return stream.getvalue()


def _other_size(data: bytes, before: int, after: int) -> bytes:
    changed = data.replace(struct.pack(">HH", before, before), struct.pack(">HH", after, after))
    assert changed != data
    return changed


def _jp2_that_lies() -> bytes:
    """Return a JP2 whose boxes say 100 x 100, and whose codestream 2,600 x 2,600 of 16 bits."""
    data = _picture("JPEG2000", 2_600, "I;16")
    box = data.index(b"ihdr")
    return data[: box + 4] + struct.pack(">II", 100, 100) + data[box + 12 :]


def _dicom(encoding: str, change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    return lambda: change(film(encoding))


def _deflated_bomb(data: bytes) -> bytes:
    """Return a deflated file with 1 GiB in a private element behind its own."""
    end = 132 + 12 + int.from_bytes(data[140:144], "little")
    inner = zlib.decompress(data[end:], -zlib.MAX_WBITS)
    return data[:end] + _deflated(inner + struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, _GIB), _GIB)


def _rle_bomb(data: bytes) -> bytes:
    """Return a frame whose first segment goes on for a hundred million runs' worth of bytes."""
    start = data.index(b"\xe0\x7f\x10\x00")
    item = data.index(b"\xfe\xff\x00\xe0", start + 20)
    length = int.from_bytes(data[item + 4 : item + 8], "little")
    runs = b"\x81\x00" * 1_000_000
    frame = struct.pack("<16L", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2
    return data[: item + 4] + struct.pack("<L", len(frame)) + frame + data[item + 8 + length :]


def _stream_size(data: bytes, marker: bytes, form: str, place: int) -> bytes:
    """Return a file whose codestream says 60,000 x 60,000."""
    start = data.index(marker) + place
    return data[:start] + struct.pack(form, 60_000, 60_000) + data[start + struct.calcsize(form) :]


def _gzip_bomb() -> bytes:
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + _deflated(film(), _GIB) + bytes(8)


def _zip(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def _zip_of_zeros() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w") as member:
        member.write(_picture("PNG", 80)[:60])
        for _ in range(12):
            member.write(bytes(1 << 20))
    return stream.getvalue()


def _smaller_than_said() -> bytes:
    """Return an archive whose directory says that a member of 12 MiB has 100 kB."""
    data = _zip_of_zeros()
    size = ((12 << 20) + 60).to_bytes(4, "little")
    assert data.count(size) >= 1
    return data.replace(size, (100_000).to_bytes(4, "little"))


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("../../a.png")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"abcd"))
    return stream.getvalue()


def _lie(file: str, lie: str, said: str, name: str, make: Callable[[], bytes], most_mib: int = 64) -> Lie:
    return Lie(file=file, lie=lie, said=said, tell=_tell(name, make), most_mib=most_mib)


LIES: tuple[Lie, ...] = (
    _lie(
        "PNG",
        "30,000 x 30,000 in 400 bytes",
        "pixels than can be read",
        "a.png",
        lambda: _png(30_000, 30_000, _zeros(1 << 20)),
    ),
    _lie(
        "PNG",
        "64 x 64, and 1 GiB behind its rows",
        "every pixel has the same value",
        "a.png",
        lambda: _png(64, 64, _zeros(_GIB)),
    ),
    _lie(
        "PNG",
        "a text of 1 GiB in 1 MB",
        "the picture cannot be decoded",
        "a.png",
        lambda: _png(100, 100, _zeros(101 * 100), extra=_chunk(b"zTXt", b"a\0\0" + _zeros(_GIB))),
    ),
    _lie(
        "PNG of 16 bits",
        "a colour profile of 1 GiB in 1 MB",
        "the picture cannot be decoded",
        "a.png",
        lambda: _png(100, 100, _zeros(201 * 100), bits=16, extra=_chunk(b"iCCP", b"a\0\0" + _zeros(_GIB))),
    ),
    _lie(
        "JPEG",
        "60,000 x 60,000 in 500 bytes",
        "pixels than can be read",
        "a.jpg",
        lambda: _other_size(_picture("JPEG", 100), 100, 60_000),
    ),
    _lie(
        "TIFF",
        "60,000 samples a pixel in 1 kB: 120 GB",
        "60000 samples a pixel",
        "a.tif",
        lambda: _strip(1000, _zeros(1 << 20), samples=60_000),
    ),
    _lie(
        "TIFF",
        "tiles of 60,000 x 60,000 around 64 x 64",
        "the picture cannot be decoded",
        "a.tif",
        lambda: _tile(59_984),
    ),
    _lie(
        "TIFF",
        "100 x 100, and a strip of 1 GiB in 1 MB",
        "the picture cannot be decoded",
        "a.tif",
        lambda: _strip(100, _zeros(_GIB)),
    ),
    _lie(
        "JPEG 2000",
        "its boxes say 100 x 100, its codestream 2,600 x 2,600",
        "the image has 6760000 pixels",
        "a.jp2",
        _jp2_that_lies,
    ),
    _lie(
        "DICOM, deflated", "1 GiB in 1 MB", "expected at most 16 MiB", "a.dcm", _dicom("deflated", _deflated_bomb), 64
    ),
    _lie(
        "DICOM, RLE",
        "segments of 128 MB for 36 kB",
        "every pixel has the same value",
        "a.dcm",
        _dicom("rle", _rle_bomb),
    ),
    _lie(
        "DICOM, JPEG",
        "a stream of 60,000 x 60,000",
        "the compressed frame has 60000 x 60000 px",
        "a.dcm",
        _dicom("jpeg", lambda data: _stream_size(data, b"\xff\xc0", ">HH", 5)),
    ),
    _lie(
        "DICOM, JPEG-LS",
        "a stream of 60,000 x 60,000",
        "the compressed frame has 60000 x 60000 px",
        "a.dcm",
        _dicom("jpeg-ls", lambda data: _stream_size(data, b"\xff\xf7", ">HH", 5)),
    ),
    _lie(
        "DICOM, lossless JPEG",
        "a stream of 60,000 x 60,000",
        "the compressed frame has 60000 x 60000 px",
        "a.dcm",
        _dicom("lossless jpeg", lambda data: _stream_size(data, b"\xff\xc3", ">HH", 5)),
    ),
    _lie(
        "DICOM, JPEG 2000",
        "a stream of 60,000 x 60,000",
        "the compressed frame has 60000 x 60000 px",
        "a.dcm",
        _dicom("jpeg2000", lambda data: _stream_size(data, b"\xff\x51", ">II", 6)),
    ),
    _lie("gzip", "1 GiB in 1 MB", "expected at most 16 MiB", "a.dcm.gz", _gzip_bomb, 128),
    _lie("zip", "a member of 12 MiB in 12 kB", "times when inflated", "a.zip", _zip_of_zeros),
    _lie(
        "zip", "a member of 12 MiB that says 100 kB", "the zip member cannot be inflated", "a.zip", _smaller_than_said
    ),
    _lie(
        "zip",
        "`../../a.png`",
        "the zip member's path leaves the archive",
        "a.zip",
        lambda: _zip("../../a.png", _picture("PNG", 80)),
    ),
    _lie(
        "zip",
        "a zip archive inside",
        "a zip archive inside another",
        "a.zip",
        lambda: _zip("b.zip", _zip("a.png", b"x")),
    ),
    _lie("tar", "`../../a.png`", "neither DICOM nor a picture", "a.tar", _tar),
)
