"""sha256 of files, remembered by size and time of change so that gigabytes are hashed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.files import write_text
from chexmix_cli.core.weights.files import home

#: Newest digests kept in the cache file.
_MAX_REMEMBERED = 1000


def file_sha256(path: Path, *, fresh: bool = False) -> str:
    """Return the sha256 of a file as lower-case hexadecimal.

    Args:
        path: the file.
        fresh: read the file even if its digest is remembered (a check must not trust the cache).

    Raises:
        WeightsError: if the file cannot be read.
    """
    try:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_ino}|{status.st_size}|{status.st_mtime_ns}"
        known = _remembered()
        if not fresh and key in known:
            return known[key]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", where=str(path)) from None
    _remember({**known, key: digest})
    return digest


def tokenizer_hash(paths: Sequence[Path]) -> str | None:
    """Return 12 digits of the sha256 of a text tokenizer's files, or None if there are none."""
    digests = [file_sha256(path) for path in paths]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:12] if digests else None


def _cache_file() -> Path:
    return home() / "sha256.json"


def _remembered() -> dict[str, str]:
    try:
        known = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}


def _remember(known: dict[str, str]) -> None:
    try:
        write_text(_cache_file(), json.dumps(dict(list(known.items())[-_MAX_REMEMBERED:]), indent=0))
    except OSError:
        return  # a home that cannot be written costs time, nothing else
