"""Triton kernels without a GPU: in its interpreter, on the CPU; with one, compiled. Outputs start as NaN."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def triton_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the ops on Triton, as ``auto`` would on a GPU; skip where there is none."""
    pytest.importorskip("triton")
    from chexmix_cli.core.kernels import backend

    monkeypatch.setenv("CHEXMIX_KERNELS", "triton")
    backend._decide.cache_clear()
    yield
    backend._decide.cache_clear()


@pytest.fixture
def in_one_graph() -> Callable[..., Callable[..., Any]]:
    """Return a function that compiles another into one graph, or fails."""
    from chexmix_cli.core.kernels.backend import prepare_compiler

    prepare_compiler()
    return functools.partial(torch.compile, backend="aot_eager", fullgraph=True)


@pytest.fixture
def device() -> torch.device:
    """Return where kernels run here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what ``torch.empty`` makes with NaN, or with a number no index can be: an element left out shows."""
    with torch.device("meta"):
        torch.zeros(())  # torch notes once a process which functions a device is given to: the sound ones
    empty = torch.empty

    def poisoned(*arguments: object, **options: object) -> torch.Tensor:
        made = empty(*arguments, **options)  # type: ignore[call-overload]
        return made.fill_(torch.nan if made.is_floating_point() else -(2**40) if made.dtype == torch.int64 else 0)

    monkeypatch.setattr(torch, "empty", poisoned)
