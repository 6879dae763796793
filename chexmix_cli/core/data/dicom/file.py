"""DICOM files through pydicom: headers without pixels, whole files, values by keyword. Nothing of pydicom's escapes.

pydicom warns, logs and raises with header values in its messages: a patient's name may be among them. Everything it
says is caught here, so that only our own words reach a record or a log. ``quiet`` changes process-wide state while it
is active: decode in processes, not in threads.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from pydicom.uid import ExplicitVRLittleEndian as ExplicitLittle
from pydicom.uid import ImplicitVRLittleEndian as ImplicitLittle
from pydicom.valuerep import PersonName

from chexmix_cli.core.data.sources import check_size
from chexmix_cli.core.errors import DataError, Reason

#: Pixel Data, Float Pixel Data, Double Float Pixel Data.
_PIXEL_TAGS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_UNDEFINED_LENGTH = 0xFFFFFFFF
#: zlib's window bits for data with either header.
_ZLIB_OR_GZIP = zlib.MAX_WBITS + 32
_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the DICOM libraries' warnings and log records from reaching anyone, while active."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    propagated = [logger.propagate for logger in loggers]
    try:
        for logger in loggers:
            logger.propagate = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, value in zip(loggers, propagated, strict=True):
            logger.propagate = value


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The pixel element of a file, as its header announces it.

    Attributes:
        is_float: Float or Double Float Pixel Data.
        num_bytes: announced length, or what is left of the file if that is less; None where the length is undefined,
            as in encapsulated (compressed) data.
    """

    is_float: bool
    num_bytes: int | None


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A parsed file.

    Attributes:
        dataset: pydicom's, with or without the pixels. Read values by ``text``, ``integer``, ``numbers``.
        transfer_syntax: how the data set is encoded; of a file that does not say, how it was read.
        pixels: what the header announces, None if the file has no pixel element.
        media_class: the class that the file's meta group states, if it has one.
    """

    dataset: Dataset
    transfer_syntax: UID
    pixels: PixelElement | None
    media_class: str | None = None

    def text(self, keyword: str) -> str | None:
        """Return an element as text, several values joined by blanks; None if missing, empty or undecodable."""
        return " ".join(self.texts(keyword)).strip() or None

    def texts(self, keyword: str) -> list[str]:
        """Return an element's texts; empty if missing, empty or undecodable."""
        value = self.value(keyword)
        if value is None:
            return []
        return [str(part).strip() for part in (value if _is_multiple(value) else [value])]

    def numbers(self, keyword: str) -> list[float]:
        """Return an element's numbers; empty if missing, empty or no numbers."""
        value = self.value(keyword)
        try:
            return [] if value is None else [float(part) for part in (value if _is_multiple(value) else [value])]
        except (TypeError, ValueError):
            return []

    def integer(self, keyword: str) -> int | None:
        """Return an element's (first) number if it is whole, else None."""
        numbers = self.numbers(keyword)
        return int(numbers[0]) if numbers and numbers[0].is_integer() else None

    def items(self, keyword: str) -> list[DicomFile]:
        """Return the items of a sequence, each readable like a file."""
        value = self.value(keyword)
        if not isinstance(value, list) and not _is_multiple(value):
            return []
        return [DicomFile(item, self.transfer_syntax, None) for item in value if isinstance(item, Dataset)]

    def value(self, keyword: str) -> Any:
        """Return an element's value as pydicom gives it; None if missing, empty or undecodable."""
        with quiet():
            try:
                value = self.dataset.get(keyword)
            except Exception:  # pydicom raises many kinds on values that do not fit their VR
                return None
        return None if value is None or value == "" else value


def _is_multiple(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes, bytearray, PersonName))


def parse_header(stream: BinaryIO, max_bytes: int) -> DicomFile:
    """Return a file parsed up to its pixels.

    Raises:
        DataError: ``CORRUPT`` if it is no DICOM data set, ``TOO_LARGE`` if a deflated one inflates above ``max_bytes``.
    """
    return _parse(stream, max_bytes, with_pixels=False)


def parse_whole(data: bytes, max_bytes: int) -> DicomFile:
    """Return a file parsed with its pixels; the same errors as ``parse_header``."""
    return _parse(io.BytesIO(data), max_bytes, with_pixels=True)


def _parse(stream: BinaryIO, max_bytes: int, *, with_pixels: bool) -> DicomFile:
    found: list[PixelElement] = []
    start: list[int] = []

    def stop_when(tag: int, _vr: str | None, length: int) -> bool:
        if int(tag) in _PIXEL_TAGS:
            num_bytes = None if length == _UNDEFINED_LENGTH else min(length, _bytes_left(opened))
            found.append(PixelElement(int(tag) != _PIXEL_TAGS[0], num_bytes))
            start.append(opened.tell())
            return not with_pixels or num_bytes is None
        return False

    with quiet():
        try:
            inflated = _inflate(stream, max_bytes)
            opened = inflated or stream
            dataset = read_partial(opened, stop_when, force=True)
            syntax = None if inflated else dataset.file_meta.get("TransferSyntaxUID")
            syntax = _guessed_syntax(dataset) if syntax is None else UID(str(syntax))
            media_class = dataset.file_meta.get("MediaStorageSOPClassUID")
            if with_pixels and found and found[0].num_bytes is None and not found[0].is_float:
                # As it stands: pydicom drops everything where the items do not end as they should.
                opened.seek(start[0])
                dataset.add_new(_PIXEL_TAGS[0], "OB", opened.read())
        except DataError:
            raise
        except Exception as error:  # a damaged file makes pydicom raise almost anything
            raise DataError(Reason.CORRUPT, f"the DICOM data cannot be parsed ({type(error).__name__})") from None
    if len(dataset) == 0 and not dataset.file_meta:
        raise DataError(Reason.CORRUPT, "the file holds no DICOM element")
    return DicomFile(dataset, syntax, found[0] if found else None, None if media_class is None else str(media_class))


def _bytes_left(stream: BinaryIO) -> int:
    position = stream.tell()
    end = stream.seek(0, io.SEEK_END)
    stream.seek(position)
    return end - position


def _guessed_syntax(dataset: Any) -> UID:
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return ImplicitLittle
    return ExplicitLittle if is_little else ExplicitVRBigEndian


def _inflate(stream: BinaryIO, max_bytes: int) -> BinaryIO | None:
    """Return the data set of a deflated file, inflated up to a bound; None (and rewound) if it is not deflated.

    pydicom inflates without a bound, and a megabyte can become a gigabyte. DICOM asks for the bare deflate format
    (PS3.5 A.5); writers that put zlib's or gzip's header around it are met.
    """
    head = stream.read(16 << 10)
    stream.seek(0)
    if head[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in head:
        return None
    end = _meta_end(head)
    if end is None:
        return None
    stream.seek(end)
    deflated = stream.read()
    try:
        return _inflated(deflated, -zlib.MAX_WBITS, max_bytes)
    except zlib.error:
        return _inflated(deflated, _ZLIB_OR_GZIP, max_bytes)


def _inflated(deflated: bytes, window_bits: int, max_bytes: int) -> BinaryIO:
    inflater = zlib.decompressobj(window_bits)
    data = inflater.decompress(deflated, max_bytes + 1)
    check_size(len(data), max_bytes)
    if not inflater.eof:
        raise DataError(Reason.CORRUPT, "the deflated data set ends early")
    return io.BytesIO(data)


def _meta_end(head: bytes) -> int | None:
    """Return where the file meta group ends, if its syntax is deflated; it is explicit little endian, always."""
    position, is_deflated = 132, False
    while head[position : position + 2] == b"\x02\x00":
        is_long = head[position + 4 : position + 6] in (b"OB", b"OW", b"UN", b"UT", b"SQ")
        start = position + (12 if is_long else 8)
        length = int.from_bytes(head[start - (4 if is_long else 2) : start], "little")
        if head[position : position + 4] == b"\x02\x00\x10\x00":
            value = head[start : start + length].rstrip(b"\x00 ")
            is_deflated = value == DeflatedExplicitVRLittleEndian.encode()
        position = start + length
    return position if is_deflated and position < len(head) else None
