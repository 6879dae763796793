"""Files that were packed one by one, such as ``film.dcm.gz``: inflated in memory, up to a bound."""

from __future__ import annotations

import zlib

from chexmix_cli.core.errors import DataError, Reason

MAGIC = b"\x1f\x8b"
#: Of a packed file, enough for the first few hundred bytes of what it holds.
HEAD_BYTES = 16 << 10
#: zlib's window bits for data with gzip's header (RFC 1952).
_GZIP = zlib.MAX_WBITS + 16


def inflated_head(head: bytes, num_bytes: int) -> bytes:
    """Return the first bytes of what a packed file holds, from its own first ``HEAD_BYTES``; empty if damaged."""
    try:
        return zlib.decompressobj(_GZIP).decompress(head, num_bytes)
    except zlib.error:
        return b""


def inflate(packed: bytes, max_bytes: int) -> bytes:
    """Return what a packed file holds, up to one byte more than ``max_bytes``.

    Raises:
        DataError: ``CORRUPT`` if it is damaged or cut.
    """
    inflated, rest = bytearray(), packed
    try:
        while rest.startswith(MAGIC) and len(inflated) <= max_bytes:  # several parts may follow each other
            inflater = zlib.decompressobj(_GZIP)
            inflated += inflater.decompress(rest, max_bytes + 1 - len(inflated))
            if not inflater.eof and len(inflated) <= max_bytes:
                raise DataError(Reason.CORRUPT, "the gzip file ends early")
            rest = inflater.unused_data
    except zlib.error:
        raise DataError(Reason.CORRUPT, "the gzip file cannot be inflated") from None
    return bytes(inflated)
