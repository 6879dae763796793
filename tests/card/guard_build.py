"""Build guard.cpp for the torch in use, once for all tests of a session; no torch is imported."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
from pathlib import Path

from filelock import FileLock

#: What guard.cpp stands on (at::CUDAHooksInterface) is no public interface of torch, and launches are counted.
TORCH = "2.13"
_SOURCE = Path(__file__).with_name("guard.cpp")


def problem() -> str | None:
    """Return why the card cannot be pretended here, or None."""
    version = importlib.metadata.version("torch")
    if not version.startswith(f"{TORCH}."):
        return f"the pretended card is made for torch {TORCH}, this is {version}"
    if shutil.which("g++") is None:
        return "there is no g++ to build tests/card/guard.cpp with"
    return None


def build(folder: Path) -> Path:
    """Return the library in ``folder``, built unless it is there; several processes may ask at once."""
    source = _SOURCE.read_bytes() + importlib.metadata.version("torch").encode()
    target = folder / f"guard-{hashlib.sha256(source).hexdigest()[:12]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    with FileLock(f"{target}.lock"):
        if not target.exists():
            partial = target.with_suffix(".partial")
            paths = [f"-I{torch / 'include'}", f"-L{torch / 'lib'}"]
            options = ["-O0", "-std=c++20", "-shared", "-fPIC", *paths]
            command = ["g++", *options, str(_SOURCE), "-o", str(partial), "-lc10", "-ltorch_cpu"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
            partial.rename(target)
    return target
