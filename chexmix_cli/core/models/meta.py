"""Modules on the meta device: shapes alone, for what is filled later or only counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = (init.normal_, init.uniform_, init.kaiming_uniform_)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the draws of first values, which have nowhere to go."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        return named["tensor"] if function in _DRAWS else function(*args, **named)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Make modules and tensors without memory.

    As ``torch.device("meta")``, but first values of modules are not drawn: there torch does so by a function that loads
    ``torch.compile``, a second that every command would wait.
    """
    with torch.device("meta"), _NothingDrawn():
        yield
