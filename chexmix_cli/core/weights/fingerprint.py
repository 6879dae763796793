"""sha256 of files, remembered by size and time of change so that gigabytes are hashed once; and of a tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.text.tokenizer_identity import canonical_text
from chexmix_cli.core.weights.files import Remembered, tokenizer_files

if TYPE_CHECKING:
    from torch import Tensor

_DIGESTS = Remembered("sha256.json", most=1000)


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
        known = None if fresh else _DIGESTS.get(key)
        if isinstance(known, str):
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", where=str(path)) from None
    _DIGESTS.put(key, digest)
    return digest


def require_made_for(
    model: str,
    fingerprint: str,
    *,
    what: str,
    where: str,
    hint: str,
    values: tuple[str | None, Callable[[], str]] | None = None,
) -> None:
    """Refuse what was made for other weights than those in use.

    Args:
        model: fingerprint of the weights it was made for.
        fingerprint: of those in use.
        what: it is, for the message.
        where: its file.
        hint: how to get another one.
        values: hash of the values that it was made for, and what gives those in use; asked where the fingerprints
            differ: a copy of the weights in another dtype has the same.

    Raises:
        WeightsError: with what was expected.
    """
    if model == fingerprint or (values is not None and values[0] is not None and values[0] == values[1]()):
        return
    expected = f"{what} of the weights in use ({fingerprint[:12]})"
    raise WeightsError(f"was made for other weights ({model[:12]})", where=where, expected=expected, hint=hint)


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
