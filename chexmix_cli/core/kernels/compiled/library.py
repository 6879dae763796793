"""The library of the kernels in C, and torch's threads to run them on."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from chexmix_cli.core.kernels.backend import asked_for
from chexmix_cli.core.kernels.compiled.build import LIBRARY, source_hash

_LOG = logging.getLogger("chexmix")


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL | str:
    """Return the library, or why there is none."""
    if not path.is_file():
        return "the kernels were not compiled: there was no C compiler when chexmix was installed"
    try:
        found = ctypes.CDLL(str(path))
    except OSError as problem:
        return f"{path.name} cannot be loaded: {problem}"
    found.chexmix_source.restype = ctypes.c_char_p
    if found.chexmix_source().decode() != source_hash():
        return f"{path.name} was compiled from another version of its source: install chexmix again"
    return found


def answer(function: str) -> tuple[int, str]:
    """Return what a function of the library says of this CPU, and, where that is nothing, why."""
    found = library()
    said = 0 if isinstance(found, str) else int(getattr(found, function)())
    return said, found if isinstance(found, str) else "" if said else "this CPU has no AVX2"


def torch_is_watched() -> bool:
    """Return whether torch's own operations are wanted: asked for, or recorded, changed or counted by someone."""
    recorded = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return recorded or is_in_torch_dispatch_mode() or asked_for() == "torch"


@cache
def torch_threads() -> int | None:
    """Return the address of the function that runs one on torch's threads, or None: then one thread computes.

    They are those of the OpenMP that torch itself is linked with, so that there is no second set of them.
    """
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # Looked up in what torch is linked with, whichever OpenMP that is and whatever its file is called.
        return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        _LOG.info("compiled kernels: torch's threads were not found, one thread computes")
        return None
