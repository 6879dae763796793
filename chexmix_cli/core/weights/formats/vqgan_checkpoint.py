"""The released ``vqgan.ckpt``: a pickled training checkpoint, read through torch's restricted unpickler only."""

from __future__ import annotations

import logging
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.weights.formats.header import refuse_placeholder
from chexmix_cli.core.weights.formats.keys import is_training_only
from chexmix_cli.core.weights.formats.safetensors_io import dtype_codes

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger("chexmix")


class VqganCheckpoint:
    """A ``vqgan.ckpt`` as a tensor source; the loss networks of its training are left out and counted.

    Args:
        path: the file; a plain state dict, one under ``state_dict``, or one under any other key if it is the only one.

    Raises:
        WeightsError: if it is missing, damaged, holds no tensors, or needs more than ``weights_only`` unpickling.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        refuse_placeholder(path)
        state = _state_dict(_load(path), self.where)
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


def _state_dict(content: Any, where: str) -> Mapping[str, Tensor]:
    """Return the one state dict of a checkpoint; an average of the weights beside it makes two of them."""
    values = content if isinstance(content, Mapping) else {}
    if _is_state_dict(values):
        return values
    found: dict[str, Mapping[str, Tensor]] = {str(key): value for key, value in values.items() if _is_state_dict(value)}
    averages = [key for key in found if "ema" in re.split(r"[^a-z]+", key.lower())]
    if averages and len(found) > 1:
        raise WeightsError(
            f"holds an average of the weights ({', '.join(averages)}) beside them",
            where=where,
            expected="one state dict",
            hint="save the one you want alone: which one is better only its training knows",
        )
    if "state_dict" in found or len(found) == 1:
        name = "state_dict" if "state_dict" in found else next(iter(found))
        return found[name]
    expected = "tensors by name, or under state_dict"
    held = f" but {len(found)}: {', '.join(found)}" if found else ""
    raise WeightsError(f"holds no state dict{held}", where=where, expected=expected)


def _is_state_dict(value: Any) -> bool:
    import torch

    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, torch.Tensor) for one in value.values())


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
    except MemoryError:
        raise _damaged(path, "it asks for more memory than there is") from None
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, AttributeError, TypeError, struct.error,
            AssertionError, zipfile.BadZipFile) as error:  # fmt: skip
        raise _damaged(path, (str(error).splitlines() or [type(error).__name__])[0]) from None


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"is damaged or no torch checkpoint ({reason})", where=str(path), hint="copy or fetch it again")
