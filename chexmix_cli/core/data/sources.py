"""Where an input's bytes are: a file, a member of a zip archive, or memory; perhaps packed by gzip.

Reading is bounded; what a file is, its bytes say.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, Self

from chexmix_cli.core.errors import DataError, Reason

#: What grows more than this when inflated, and is larger than ``_SMALL_BYTES`` then, is taken for a bomb.
_MAX_ZIP_RATIO = 200
_SMALL_BYTES = 1 << 20
_MAX_ZIP_MEMBERS = 1_000_000
#: What ``zipfile`` raises of archives that are damaged, or one part of several.
ZIP_ERRORS = (zipfile.BadZipFile, ValueError, NotImplementedError)
#: Enough for the first elements behind preamble and DICOM magic, which say what the file holds.
_HEAD_BYTES = 256
#: Media Storage SOP Class UID, in explicit VR as all of its group (PS3.10, 7.1).
_CLASS_ELEMENT = b"\x02\x00\x02\x00UI"
_DIRECTORY_CLASS = b"1.2.840.10008.1.3.10"
#: How zip archives pack that Python's zipfile does not unpack (APPNOTE.TXT, 4.4.5).
_UNREAD_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}

_GZIP_MAGIC = b"\x1f\x8b"
#: Of a packed file, enough for the first few hundred bytes of what it holds.
_PACKED_HEAD_BYTES = 16 << 10
#: zlib's window bits for data with gzip's header (RFC 1952).
_GZIP_BITS = zlib.MAX_WBITS + 16

Kind = Literal["dicom", "directory", "picture", "zip"]

_PICTURE_MAGIC: tuple[bytes, ...] = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",  # BigTIFF
    b"MM\x00+",
    b"BM",
    b"GIF8",
    b"\x00\x00\x00\x0cjP  \r\n",
    b"\xff\x4f\xff\x51",  # JPEG 2000 without the boxes of JP2
    b"\x00\x00\x00\x0cJXL \r\n",  # JPEG XL is refused by its name
    b"\xff\x0a",
)


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or ``member`` of the zip archive ``path``. Picklable; opens nothing until asked.

    Attributes:
        data: the file's bytes, where they are in memory already; ``path`` is a name then, and is not opened.
    """

    path: Path
    member: str | None = None
    data: bytes | None = field(default=None, repr=False)

    @classmethod
    def named(cls, path: Path) -> Self:
        """Return what records and manifests name: a path, or ``archive.zip!member`` where there is no such file."""
        text = str(path)
        if "!" in text and not os.path.lexists(text):
            for found in re.finditer("!", text):
                if os.path.isfile(text[: found.start()]):
                    return cls(Path(text[: found.start()]), text[found.end() :])
        return cls(path)

    @property
    def name(self) -> str:
        """Return the file's own name, without folders."""
        return self.path.name if self.member is None else member_path(self.member).name

    def kind(self) -> Kind | None:
        """Return what the first bytes say the file is; the same errors as ``open``, but for its size."""
        if self.member is None:
            with self._open_packed(sys.maxsize) as stream:
                return sniff_stream(stream)
        with _member_errors(), open_archive(self.path).open(_member_info(self.path, self.member)) as stream:
            return sniff_stream(stream)

    def _status(self) -> os.stat_result:
        try:
            return self.path.stat()
        except FileNotFoundError:
            if self.path.is_symlink():
                raise DataError(Reason.NOT_FOUND, "a symbolic link whose target is missing") from None
            raise

    @contextmanager
    def open(self, max_bytes: int) -> Iterator[BinaryIO]:
        """Open for reading; a zip member, and what gzip packed, is read whole, into memory.

        Raises:
            DataError: ``NOT_FOUND``, ``UNREADABLE`` (rights, no ordinary file, encrypted), ``TOO_LARGE``, ``CORRUPT``.
        """
        with self._open_packed(max_bytes) as stream:
            is_packed = stream.read(2) == _GZIP_MAGIC
            stream.seek(0)
            if is_packed:
                packed = stream.read()
                data = inflate(packed, max_bytes)
                check_size(len(data), max_bytes)
                _check_ratio(len(data), len(packed))
                yield io.BytesIO(data)
            else:
                yield stream

    @contextmanager
    def _open_packed(self, max_bytes: int) -> Iterator[BinaryIO]:
        if self.member is not None:
            yield io.BytesIO(_read_member(self.path, self.member, max_bytes))
            return
        if self.data is not None:
            check_size(len(self.data), max_bytes)
            yield io.BytesIO(self.data)
            return
        try:
            status = self._status()
            if not stat.S_ISREG(status.st_mode):
                raise DataError(Reason.UNREADABLE, "not an ordinary file")
            check_size(status.st_size, max_bytes)
            stream = self.path.open("rb")
        except OSError as error:
            raise _os_error(error) from None
        except ValueError:
            raise DataError(Reason.NOT_FOUND, "no file can have such a name") from None
        with stream:
            yield stream

    def read(self, max_bytes: int) -> bytes:
        """Return all bytes; the same errors as ``open``."""
        with self.open(max_bytes) as stream:
            try:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                # As many bytes are set aside as are asked for: not all that a file may have, for each that has less.
                data = stream.read(min(size, max_bytes) + 1)
                if len(data) > size:  # it has grown meanwhile
                    data += stream.read(max_bytes + 1 - len(data))
            except OSError as error:
                raise _os_error(error) from None
        check_size(len(data), max_bytes)
        return data


def check_size(num_bytes: int, max_bytes: int) -> None:
    """Raise ``TOO_LARGE`` if a file or member is above the bound."""
    if num_bytes > max_bytes:
        raise DataError(
            Reason.TOO_LARGE,
            f"the file has {num_bytes / 2**20:.0f} MiB",
            expected=f"at most {max_bytes / 2**20:.0f} MiB (input.max_file_mb)",
        )


def _check_ratio(num_bytes: int, num_packed: int) -> None:
    if num_bytes > _SMALL_BYTES and num_bytes > _MAX_ZIP_RATIO * max(1, num_packed):
        raise DataError(
            Reason.TOO_LARGE,
            f"the file grows {num_bytes // max(1, num_packed)} times when inflated",
            expected=f"at most {_MAX_ZIP_RATIO} times",
        )


def sniff(head: bytes) -> Kind | None:
    """Return what the first bytes of a file (256 or more, if it has as many) say it is, or None.

    A DICOMDIR, which is DICOM and lists other files, is a ``directory``, whatever it is called.
    """
    if head[128:132] == b"DICM":
        return "directory" if _media_class(head) == _DIRECTORY_CLASS else "dicom"
    if head.startswith(_PICTURE_MAGIC) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return "picture"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "dicom" if _starts_with_element(head) else None


def _media_class(head: bytes) -> bytes:
    start = head.find(_CLASS_ELEMENT, 132)
    value = start + len(_CLASS_ELEMENT) + 2
    length = int.from_bytes(head[value - 2 : value], "little")
    return head[value : value + length].rstrip(b"\0 ") if start >= 0 else b""


def sniff_stream(stream: IO[bytes]) -> Kind | None:
    """Return what an open file is, or what it holds if gzip packed it."""
    head = stream.read(_HEAD_BYTES)
    if head.startswith(_GZIP_MAGIC):
        head = _inflated_head(head + stream.read(_PACKED_HEAD_BYTES), _HEAD_BYTES)
    return sniff(head)


def _inflated_head(head: bytes, num_bytes: int) -> bytes:
    """Return the first bytes of what a packed file holds, from its own first few KiB; empty if it is damaged."""
    try:
        return zlib.decompressobj(_GZIP_BITS).decompress(head, num_bytes)
    except zlib.error:
        return b""


def inflate(packed: bytes, max_bytes: int) -> bytes:
    """Return what a packed file holds, up to one byte more than ``max_bytes``.

    Raises:
        DataError: ``CORRUPT`` if it is damaged or cut.
    """
    inflated, rest = bytearray(), packed
    try:
        while rest.startswith(_GZIP_MAGIC) and len(inflated) <= max_bytes:  # several parts may follow each other
            inflater = zlib.decompressobj(_GZIP_BITS)
            inflated += inflater.decompress(rest, max_bytes + 1 - len(inflated))
            if not inflater.eof and len(inflated) <= max_bytes:
                raise DataError(Reason.CORRUPT, "the gzip file ends early")
            rest = inflater.unused_data
    except zlib.error:
        raise DataError(Reason.CORRUPT, "the gzip file cannot be inflated") from None
    return bytes(inflated)


def _starts_with_element(head: bytes) -> bool:
    """Tell whether the bytes begin with a DICOM element of group 0002 or 0008 (a file without preamble)."""
    if len(head) < 16:
        return False
    for endian in "<>":
        group, element, length = struct.unpack(f"{endian}HHL", head[:8])
        if group not in (0x0002, 0x0008) or element > 0x0070:
            continue
        has_vr = head[4:6].isalpha() and head[4:6].isupper()
        # Implicit VR exists in little endian only; the first elements of a file are short ones.
        if has_vr or (endian == "<" and length <= 1024):
            return True
    return False


def open_archive(path: Path) -> zipfile.ZipFile:
    """Return an archive, kept open: its directory is read once a process, not once a member.

    Raises:
        DataError: if it is no zip archive or cannot be read.
    """
    try:
        status = path.stat()
        return _kept_archive(path, status.st_mtime_ns, status.st_size, os.getpid())
    except OSError as error:
        raise _os_error(error) from None
    except ZIP_ERRORS:
        raise DataError(Reason.CORRUPT, "the zip archive cannot be read") from None


@lru_cache(maxsize=2)
def _kept_archive(path: Path, _mtime_ns: int, _size: int, _pid: int) -> zipfile.ZipFile:
    # The process is part of the key: a forked worker would share the file position with its parent.
    return zipfile.ZipFile(path)


def zip_members(path: Path) -> list[str]:
    """Return the names of an archive's files, sorted, folders and hidden files left out.

    Raises:
        DataError: if the archive cannot be read or has too many members.
    """
    infos = open_archive(path).infolist()
    if len(infos) > _MAX_ZIP_MEMBERS:
        raise DataError(
            Reason.TOO_LARGE, f"the archive has {len(infos)} members", expected=f"at most {_MAX_ZIP_MEMBERS}"
        )
    names = {info.filename for info in infos if not info.filename.endswith(("/", "\\"))}
    return sorted(name for name in names if not is_hidden(member_path(name)))


def member_path(name: str) -> PurePosixPath:
    """Return a member's path; archives made on Windows may have backslashes in it, which APPNOTE.TXT forbids."""
    return PurePosixPath(name.replace("\\", "/"))


def is_hidden(relative: PurePosixPath) -> bool:
    """Tell whether a path has a hidden part, or is one of the copies of file attributes that macOS puts in archives."""
    is_dotted = any(part.startswith(".") and not part.startswith("..") and part != "." for part in relative.parts)
    return is_dotted or "__MACOSX" in relative.parts


def _member_info(path: Path, name: str) -> zipfile.ZipInfo:
    if name.startswith(("/", "\\")) or ".." in member_path(name).parts:
        raise DataError(Reason.UNREADABLE, "the zip member's path leaves the archive")
    info = open_archive(path).getinfo(name)
    if info.flag_bits & 1:
        raise DataError(Reason.UNREADABLE, "the zip member is encrypted")
    if info.compress_type in _UNREAD_METHODS and not _can_unpack(info.compress_type):
        raise DataError(
            Reason.UNREADABLE,
            f"the zip member is packed by {_UNREAD_METHODS[info.compress_type]}",
            expected="Deflate or stored",
            hint="unpack the archive, and give the folder",
        )
    return info


def _can_unpack(method: int) -> bool:
    """Tell whether this Python's zipfile knows a method: Zstandard came with 3.14."""
    return method == getattr(zipfile, "ZIP_ZSTANDARD", None)


def _read_member(path: Path, name: str, max_bytes: int) -> bytes:
    with _member_errors():
        info = _member_info(path, name)
        check_size(info.file_size, max_bytes)
        _check_ratio(info.file_size, info.compress_size)
        with open_archive(path).open(info) as stream:
            # The size in the archive's directory may lie; zipfile never gives more than it announces, but inflates as
            # much as it is asked for.
            return stream.read(info.file_size + 1)


@contextmanager
def _member_errors() -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise _os_error(error) from None
    except Exception as error:  # zlib, lzma, bz2 and zipfile each have their own
        raise DataError(Reason.CORRUPT, f"the zip member cannot be inflated ({type(error).__name__})") from None


def _os_error(error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(Reason.NOT_FOUND, "no such file")
    if error.errno == errno.ELOOP:
        return DataError(Reason.NOT_FOUND, "a symbolic link that leads in a circle")
    return DataError(Reason.UNREADABLE, f"cannot be read ({error.strerror or type(error).__name__})")
