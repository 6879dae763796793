"""The released ``vqgan.ckpt``: a pickled training checkpoint, read through torch's restricted unpickler only."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.weights.formats.keys import is_training_only
from chexmix_cli.core.weights.formats.safetensors_io import dtype_codes

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger("chexmix")


class VqganCheckpoint:
    """A ``vqgan.ckpt`` as a tensor source; the loss networks of its training are left out and counted.

    Args:
        path: the file; a plain state dict or one under ``state_dict``.

    Raises:
        WeightsError: if it is missing, damaged, holds no tensors, or needs more than ``weights_only`` unpickling.
    """

    def __init__(self, path: Path) -> None:
        import torch

        self.where = str(path)
        content = _load(path)
        state = content.get("state_dict", content) if isinstance(content, Mapping) else None
        if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise WeightsError("holds no state dict", where=self.where, expected="tensors by name, or under state_dict")
        self._tensors: dict[str, Tensor] = {key: value for key, value in state.items() if not is_training_only(key)}
        self.num_dropped = len(state) - len(self._tensors)
        _LOG.info("%s: %d tensors, %d of its training left out", path.name, len(self._tensors), self.num_dropped)
        codes = dtype_codes()
        self.shapes: Mapping[str, tuple[int, ...]] = {key: tuple(value.shape) for key, value in self._tensors.items()}
        self.dtypes: Mapping[str, str] = {
            key: codes.get(value.dtype, str(value.dtype)) for key, value in self._tensors.items()
        }

    def get(self, key: str) -> Tensor:
        """Return one tensor, a view of the mapped file."""
        return self._tensors[key]

    def release(self) -> None:
        """Do nothing: the file stays mapped as long as this object lives (a VQGAN is small)."""


def _load(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, of files that then are refused anyway
            # Files of torch before 1.6 are no zip archives and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise WeightsError("no such file", where=str(path)) from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise _damaged(path, "its pickle cannot be followed") from None
        raise WeightsError(
            f"holds {refused[1]}, which unpickling would run as code",
            where=str(path),
            expected="tensors and plain values only, as torch.load(weights_only=True) reads them",
            hint="save its state_dict alone, where and if you trust the file",
        ) from None
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, AttributeError, TypeError) as error:
        raise _damaged(path, (str(error).splitlines() or [type(error).__name__])[0]) from None


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"is damaged or no torch checkpoint ({reason})", where=str(path), hint="copy or fetch it again")
