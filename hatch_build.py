"""Compile the CPU kernels into a wheel, or beside their source for an editable installation.

Where that is impossible (no C compiler, another machine) the wheel is pure Python, and torch computes everything.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "chexmix_cli/core/kernels/compiled"
#: The library asks for nothing newer than glibc 2.14 (a test looks), and for no Python.
TAG = "py3-none-manylinux2014_x86_64"


class NativeKernels(BuildHookInterface[Any]):
    """Runs ``build.py`` before the files of a wheel are gathered."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; hatchling calls it with ``standard`` or ``editable``."""
        module = runpy.run_path(str(Path(self.root, FOLDER, "build.py")))
        problem = module["build"]()
        if problem is not None:
            self.app.display_warning(
                f"quantised products, attention to a cache and the image tokenizer will be torch's, slower: {problem}"
            )
        elif version == "standard" and "CS_GNU_LIBC_VERSION" in os.confstr_names:
            build_data["artifacts"].append(f"{FOLDER}/{module['LIBRARY'].name}")
            build_data["pure_python"], build_data["tag"] = False, TAG
