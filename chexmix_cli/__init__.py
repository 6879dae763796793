"""CheXmix, the early-fusion generative model of chest radiographs and reports, on the command line and in Python.

    import chexmix_cli as chexmix

    model = chexmix.load("chexmix-mini")
    for study in chexmix.studies("folder"):
        print(model.report(study).text)

Importing it loads no torch; a model does (docs/python.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chexmix_cli.core.errors import (
        ChexmixError,
        DataError,
        MachineError,
        Reason,
        SettingsError,
        WeightsError,
    )
    from chexmix_cli.library import evaluate
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.model import Model, load
    from chexmix_cli.library.results import Failure
    from chexmix_cli.library.studies import studies

__version__ = "0.1.0"

#: Public name to the module that has it; a module is loaded when its first name is asked for.
_HOMES = {
    **dict.fromkeys(
        ("ChexmixError", "DataError", "MachineError", "Reason", "SettingsError", "WeightsError"), "core.errors"
    ),
    "Failure": "library.results",
    "Film": "library.films",
    "Model": "library.model",
    "evaluate": "library.evaluate",
    "load": "library.model",
    "studies": "library.studies",
}

__all__ = [
    "ChexmixError",
    "DataError",
    "Failure",
    "Film",
    "MachineError",
    "Model",
    "Reason",
    "SettingsError",
    "WeightsError",
    "__version__",
    "evaluate",
    "load",
    "studies",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    found = module if name == "evaluate" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
