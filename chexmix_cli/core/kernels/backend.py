"""Which implementation of an op runs: Triton on a CUDA device, plain torch elsewhere, or what the user says.

``CHEXMIX_KERNELS`` is ``auto`` (the default), ``triton`` or ``torch``. ``auto`` takes Triton where the tensors are on a
CUDA device of compute capability 8.0 or newer, the package is there, and so is the C compiler that it builds its
launchers with. ``triton`` where it cannot run is an error, never a silent fallback; on a CPU it runs in Triton's
interpreter (``TRITON_INTERPRET=1``), which is for tests.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from chexmix_cli.core.errors import MachineError, SettingsError

_LOG = logging.getLogger("chexmix")
_VARIABLE = "CHEXMIX_KERNELS"
_CHOICES = ("auto", "triton", "torch")
#: Oldest devices that the kernels are compiled and checked for.
_CAPABILITY = (8, 0)


def uses_triton(device: torch.device) -> bool:
    """Return whether the Triton kernels run on tensors of a device.

    Raises:
        SettingsError: if ``CHEXMIX_KERNELS`` is none of its values.
        MachineError: if it is ``triton`` and Triton cannot run there.
    """
    asked = asked_for()
    return asked != "torch" and _decide(asked == "triton", device.type, device.index)


@cache
def prepare_compiler() -> None:
    """Tell ``torch.compile`` to ask :func:`uses_triton` once a graph: it traces neither the environment nor the log.

    Whoever compiles an op calls this first. Not by a decorator: to decorate loads the compiler, a second that every
    command would wait.
    """
    torch.compiler.assume_constant_result(uses_triton)


def asked_for() -> str:
    """Return what ``CHEXMIX_KERNELS`` says; SettingsError if it is none of its values."""
    asked = os.environ.get(_VARIABLE, "auto")
    if asked not in _CHOICES:
        raise SettingsError(f"is {asked!r}", where=_VARIABLE, expected=", ".join(_CHOICES))
    return asked


def is_interpreted() -> bool:
    """Return whether Triton kernels run in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _decide(is_forced: bool, device_type: str, index: int | None) -> bool:
    """Decide once a device, and say once why."""
    problem = _problem(device_type, index)
    if is_forced and problem is not None:
        raise MachineError(
            f"Triton kernels cannot run: {problem}", where=f"{_VARIABLE}=triton", hint=f"{_VARIABLE}=torch"
        )
    # The interpreter is far slower than torch: it runs only when asked for.
    runs = is_forced or (problem is None and device_type == "cuda")
    chosen: Literal["triton", "torch"] = "triton" if runs else "torch"
    _LOG.info("kernels on %s: %s%s", device_type, chosen, "" if problem is None else f" ({problem})")
    return runs


def _problem(device_type: str, index: int | None) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install 'chexmix[kernels]')"
    if device_type == "cpu":
        return None if is_interpreted() else "the tensors are on the CPU"
    if device_type != "cuda":
        return f"no kernel for {device_type}"
    capability = torch.cuda.get_device_capability(index)
    if capability < _CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]}, and 8.0 is the oldest"
    # Triton builds a small library that launches its kernels, when the first one runs.
    if "CC" not in os.environ and not any(map(shutil.which, ("gcc", "clang"))):
        return "there is no C compiler (gcc or clang on PATH, or CC)"
    if not Path(sysconfig.get_config_var("INCLUDEPY") or "", "Python.h").is_file():
        return "Python's headers are not installed (python3-dev)"
    return None
