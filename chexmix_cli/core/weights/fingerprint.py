"""sha256 of files, remembered by size and time of change so that gigabytes are hashed once; and of a tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.files import write_text
from chexmix_cli.core.text.tokenizer_identity import canonical_text
from chexmix_cli.core.weights.files import home, tokenizer_files

if TYPE_CHECKING:
    from torch import Tensor

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


def values_hash(states: Iterable[tuple[str, Tensor]]) -> str:
    """Return 12 digits that stand for the values of tensors, whatever dtype they are held in.

    Values are rounded to bfloat16, the coarsest form that weights are kept in: a model and its copy in another dtype
    have the same.

    Args:
        states: names and tensors, in any order.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(states, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:12]


def tokenizer_hash(directory: Path) -> str | None:
    """Return 12 digits that stand for what a directory's text tokenizer does, or None if it has none.

    A file that ``train_tokenizer`` wrote has the hash of its bytes, which is what 0.1.0 took of every file.

    Raises:
        WeightsError: if the tokenizer's files are incomplete or damaged.
    """
    text = canonical_text(directory)
    return None if text is None else _hash_of([hashlib.sha256(text.encode()).hexdigest()])


def known_tokenizer_hash(recorded: str | None, directory: Path) -> str | None:
    """Return ``recorded`` if it is what 0.1.0 called this directory's text tokenizer, of its bytes; else its hash."""
    paths = tokenizer_files(directory)
    if paths and recorded == _hash_of([file_sha256(path) for path in paths]):
        return recorded
    return tokenizer_hash(directory)


def _hash_of(digests: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:12]


def _cache_file() -> Path:
    return home() / "sha256.json"


def _remembered() -> dict[str, str]:
    try:
        known = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}


def _remember(known: dict[str, str]) -> None:
    try:
        write_text(_cache_file(), json.dumps(dict(list(known.items())[-_MAX_REMEMBERED:]), indent=0))
    except OSError:
        return  # a home that cannot be written costs time, nothing else
