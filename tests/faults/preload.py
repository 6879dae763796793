"""What every command loads, loaded once: the process that commands are forked from imports this."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import pkgutil

import chexmix_cli

#: Heavy, and imported late by the code under test.
_OTHERS = (
    "torch",
    "torch.distributed.checkpoint",
    "safetensors.torch",
    "tokenizers",
    "PIL.Image",
    "pydicom",
    "scipy.stats",
)
#: Need packages that may not be installed, or do something when they are imported.
_NOT = ("__main__", "core.kernels", "library.jobs.cluster", "gguf")

# What is loaded stays: looked through for cycles, here or in a fork, it would only take time and memory of its own.
gc.disable()
for _name in _OTHERS:
    importlib.import_module(_name)
for _found in pkgutil.walk_packages(chexmix_cli.__path__, "chexmix_cli."):
    if not any(part in _found.name for part in _NOT):
        try:
            importlib.import_module(_found.name)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("chexmix_cli"):
                raise
gc.freeze()
gc.enable()
