"""Load guard.cpp's library before torch is, from CHEXMIX_CARD_GUARD, or built for the purpose; then torch says "cuda".

Import this before torch, in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

import guard_build

_FOUND = importlib.util.find_spec("torch")
assert _FOUND is not None
assert _FOUND.origin is not None
_LIBRARIES = Path(_FOUND.origin).parent / "lib"
_OWN = os.environ.get("CHEXMIX_CARD_GUARD") or guard_build.build(Path(__file__).parents[2] / "build" / "card")
for _path in (_LIBRARIES / "libc10.so", _LIBRARIES / "libtorch_cpu.so", Path(_OWN)):
    GUARD = ctypes.CDLL(str(_path), mode=ctypes.RTLD_GLOBAL)
