"""What an installation brings with it is free of the GPL: licences of the runtime's whole closure, by its metadata."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: The General Public Licences, the Affero one among them, by SPDX name or in the words of classifiers. The Lesser one
#: would be allowed for a library that Python loads; none is there.
_GPL = re.compile(r"(?<![A-Z])A?GPL|General Public Licen[sc]e|Affero", re.IGNORECASE)
_LGPL = re.compile(r"Lesser General Public|Library or Lesser|LGPL", re.IGNORECASE)
#: Reviewed by hand: what the metadata alone would not allow, and why it is allowed.
EXCEPTIONS: dict[str, str] = {}
#: Extras that say in pyproject.toml that they are not under a licence like ours.
GPL_EXTRAS = {"libjpeg-gpl"}


def licences(found: Distribution) -> list[str]:
    """Return what a package's metadata says of its licence: expression, classifiers, first line of the free text."""
    metadata = found.metadata
    classifiers = [entry for entry in metadata.get_all("Classifier", []) if entry.startswith("License ::")]
    free = (metadata.get("License") or "").strip().splitlines()[:1]
    expression = [metadata["License-Expression"]] if "License-Expression" in metadata else []
    return expression + classifiers + free


def is_gpl(statement: str) -> bool:
    return bool(_GPL.search(_LGPL.sub("", statement)))


def closure(requirements: list[str], extras: tuple[str, ...] = ("",)) -> dict[str, Distribution]:
    """Return the installed packages that requirements bring, by name; those of other systems are left out."""
    found: dict[str, Distribution] = {}
    waiting = [(Requirement(text), extras) for text in requirements]
    while waiting:
        requirement, wanted = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in wanted):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or name == "chexmix":
            continue
        found[name] = distribution(requirement.name)
        inner = ("", *requirement.extras)
        waiting += [(Requirement(text), inner) for text in found[name].requires or ()]
    return found


def test_no_runtime_dependency_is_under_the_gpl():
    packages = closure(PROJECT["dependencies"])
    assert {"python-gdcm", "pylibjpeg-openjpeg", "pillow", "scipy", "filelock", "torch", "numpy"} <= set(packages)
    silent = [name for name, found in packages.items() if not licences(found) and name not in EXCEPTIONS]
    assert silent == [], "their metadata names no licence: review them"
    under_gpl = {name: licences(found) for name, found in packages.items() if any(map(is_gpl, licences(found)))}
    assert set(under_gpl) <= set(EXCEPTIONS), under_gpl
    assert set(EXCEPTIONS) <= set(packages), "an exception without a package"


def test_no_other_extra_brings_the_gpl():
    extras = PROJECT["optional-dependencies"]
    for extra, requirements in extras.items():
        names = {Requirement(text).name for text in requirements}
        assert ("pylibjpeg-libjpeg" in names) == (extra in GPL_EXTRAS), extra
        assert not any(set(Requirement(text).extras) & GPL_EXTRAS for text in requirements), extra
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in GPL_EXTRAS:
        assert re.search(rf"^# GPL-3\.0.*\n{extra} =", text, re.MULTILINE), f"{extra} does not say what it brings"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("GPL V3.0", True),
        ("GPL-3.0-or-later", True),
        ("AGPL-3.0-only", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("Apache-2.0 AND GPL-2.0-only", True),
        ("LGPL-2.1-or-later", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0", False),
        ("MPL-2.0 AND MIT", False),
    ],
)
def test_what_counts_as_the_gpl(statement, expected):
    assert is_gpl(statement) is expected


def test_the_decoder_that_was_taken_out_would_be_found():
    try:
        found = distribution("pylibjpeg-libjpeg")
    except PackageNotFoundError:
        pytest.skip("the extra libjpeg-gpl is not installed")
    assert any(map(is_gpl, licences(found)))


#: Imported only where they are there: extras, and packages that a user brings (docs/report-metrics.md).
OPTIONAL = {
    "faiss",
    "highdicom",
    "fastapi",
    "starlette",
    "prometheus_client",
    "pydantic",
    "uvicorn",
    "openpyxl",
    "pyarrow",
    "pynetdicom",
    "dicomweb_client",
    "requests",
    "rouge_score",
    "sacrebleu",
    "triton",
    "transformers",
    "nltk",
    "radgraph",
    "f1chexbert",
    "bert_score",
    "radeval",
    "CRIMSON",
    "gguf",
    "ray",
}
MODULES = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "gdcm": "python-gdcm"}


def test_every_package_that_is_imported_is_declared():
    """What only another package brings may be gone with its next version."""
    declared = {Requirement(text).name.replace("-", "_") for text in PROJECT["dependencies"]}
    imported = set()
    for path in (ROOT / "chexmix_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"chexmix_cli"} - OPTIONAL
    assert {name for name in foreign if MODULES.get(name, name).replace("-", "_") not in declared} == set()
