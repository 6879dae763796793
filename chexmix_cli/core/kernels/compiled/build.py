"""Compile every ``native.c`` into one library beside itself: what an installation does where there is a C compiler.

Nothing but the standard library, and nothing of chexmix: the build of a wheel (``hatch_build.py``) runs this file
before anything is installed. Which instructions are used is decided when the library runs, so it fits every x86-64 CPU.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent
SOURCES = sorted(_FOLDER.parent.glob("*/native.c"))
#: What they include.
HEADERS = sorted(_FOLDER.parent.glob("*/*.h"))
LIBRARY = _FOLDER / "libchexmix.so"
#: Products are rounded before they are added: what is fused is written so, and the same for all instructions.
_FLAGS = ("-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared", "-s")


def source_hash() -> str:
    """Return the sha256 of the sources, which a library carries in itself."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (*SOURCES, *HEADERS))).hexdigest()


def build(library: Path = LIBRARY, *, level: str = "-O3") -> str | None:
    """Write the library, or return why there is none: another kind of machine, no C compiler, or one that fails.

    Args:
        library: where to; one that is there is replaced whole.
        level: of optimisation. The lower ones compile sooner, and compute the same more slowly.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"there are kernels for x86-64 under Linux, and this is {platform.machine()} under {sys.platform}"
    compiler = next(filter(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))), None)
    if compiler is None:
        return "there is no C compiler (cc, gcc or clang on PATH, or CC)"
    unfinished = library.with_name(f"{library.name}.{os.getpid()}")
    command = [compiler, level, *_FLAGS, f'-DSOURCE="{source_hash()}"', *map(str, SOURCES), "-o", str(unfinished)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            return f"{compiler} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        unfinished.replace(library)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"{compiler}: {problem}"
    finally:
        unfinished.unlink(missing_ok=True)
    return None
