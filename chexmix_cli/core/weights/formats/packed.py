"""Quantised decoders kept on disk as they lie in memory: made once, mapped from then on.

Quantising takes longer than reading a file, and needs the stored weights beside what becomes of them. So all that a
quantised decoder holds (packed matrices, scales, embeddings, norms, biases) is written to a safetensors file in
``packed/`` of ``CHEXMIX_HOME``, and used from there: of a mapped file only what is read takes memory, and processes
share it. A file says what it was made of, and its name ends with its own sha256; one that is damaged, or of something
else, is removed and written again, never changed in place, since it may be mapped. ``CHEXMIX_PACKED=off`` reads and
writes none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import SettingsError, WeightsError
from chexmix_cli.core.weights.files import home
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.header import read_header
from chexmix_cli.core.weights.formats.safetensors_io import SafetensorsSource, dtype_codes, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

_LOG = logging.getLogger("chexmix")
_VARIABLE = "CHEXMIX_PACKED"
_CHOICES = ("keep", "off")
#: Changes when what is kept of the same weights does.
_FORMAT = 1
#: Header key of what a file was made of.
_KEY = "chexmix-packed"
#: Smaller states are not kept: they are made as fast as they are read.
_LEAST_BYTES = 64 << 20
#: Files that stay, the newest.
_MOST_FILES = 4


def packed_state(identity: Mapping[str, Any], make: Callable[[], State]) -> State:
    """Return a state: mapped from its file, or of ``make``, and then kept if it is large.

    Args:
        identity: all that the state depends on, of plain values.
        make: makes it.

    Raises:
        SettingsError: if ``CHEXMIX_PACKED`` is none of its values.
    """
    asked = os.environ.get(_VARIABLE, "keep")
    if asked not in _CHOICES:
        raise SettingsError(f"is {asked!r}", where=_VARIABLE, expected=", ".join(_CHOICES))
    if asked == "off":
        return make()
    text = json.dumps({"format": _FORMAT, **identity}, sort_keys=True)
    state = _read(text)
    if state is None:
        state = make()
        if sum(value.nbytes for value in state.values()) >= _LEAST_BYTES:
            _write(text, state)
            # From here on the file is what is used: its pages can be dropped, and are shared with other processes.
            state = _read(text) or state
    return state


def _folder() -> Path:
    return home() / "packed"


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(text: str) -> State | None:
    for path in sorted(_folder().glob(f"{_name(text)}-*.safetensors")):
        try:
            if file_sha256(path) != path.stem.rpartition("-")[2]:
                raise WeightsError("is damaged", where=path.name)
            header = read_header(path)
            if header.metadata.get(_KEY) != text:
                raise WeightsError("was made of something else", where=path.name)
            source = SafetensorsSource(path, header)
            state = {name: source.get(name) for name in source.shapes}
        except WeightsError as error:
            _LOG.warning("kept weights are made again: %s", error)
            _remove(path)
            continue
        _LOG.info("packed weights: mapped from %s", path)
        return state
    return None


def _write(text: str, state: State) -> None:
    # Under a name of its own until its digest is known: others may write the same file at the same time.
    written = _folder() / f"{os.getpid()}.{threading.get_ident()}.safetensors"
    try:
        write_safetensors(written, _StateSource(state), metadata={_KEY: text})
        path = written.with_name(f"{_name(text)}-{file_sha256(written)}.safetensors")
        written.replace(path)
    except (OSError, WeightsError) as error:
        _LOG.info("packed weights: not kept (%s)", error)
        _remove(written)
        return
    _LOG.info("packed weights: kept in %s", path)
    for older in sorted(_folder().glob("*.safetensors"), key=_changed)[:-_MOST_FILES]:
        _remove(older)


def _changed(path: Path) -> float:
    """Return when a file was written; 0 if another process has removed it meanwhile."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _remove(path: Path) -> None:
    """Remove a file if that is possible; who has mapped it keeps it (on Windows it stays as long)."""
    with suppress(OSError):
        path.unlink()


class _StateSource:
    """A state as a ``TensorSource``."""

    where = "packed weights"

    def __init__(self, state: State) -> None:
        import torch

        codes = {**dtype_codes(), torch.int8: "I8", torch.uint8: "U8"}
        self._state = state
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(value.shape) for name, value in state.items()}
        self.dtypes: Mapping[str, str] = {name: codes[value.dtype] for name, value in state.items()}

    def get(self, key: str) -> Tensor:
        return self._state[key]

    def release(self) -> None:
        """Do nothing: the state owns its memory."""
