"""What users get: wheel and sdist, each in an environment of its own with nothing else; run by make dist-test.

It installs from the package index. The same for the oldest versions of every dependency that pyproject.toml allows.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.dist

#: What is installed, and the constraints it is installed under.
KINDS = {"wheel": "constraints.txt", "sdist": "constraints.txt", "lowest": "constraints-lowest.txt"}
#: Modules that an extra is for, and what they may miss without it; every other module needs the base alone.
FOR_EXTRAS = {
    r"chexmix_cli\.core\.kernels\.\w+\.kernels": {"triton"},
    r"chexmix_cli\.serve\..+": {
        "fastapi",
        "uvicorn",
        "pydantic",
        "prometheus_client",
        "pynetdicom",
        "dicomweb_client",
    },
}
#: Imports everything but the entry point, which runs when it is imported, and the library in C; says what failed.
IMPORTS = """
import importlib, json, pkgutil, socket
def refused(*arguments): raise AssertionError("a module that is only imported wants the network")
socket.socket.connect = refused
import chexmix_cli
names = [module.name for module in pkgutil.walk_packages(chexmix_cli.__path__, "chexmix_cli.")]
failed = {}
for name in names:
    if not name.endswith(("__main__", ".libchexmix")):
        try:
            importlib.import_module(name)
        except BaseException as error:
            failed[name] = repr(error)
print(json.dumps([len(names), failed]))
"""


def called(*words: object, cwd: Path, **more: Any) -> str:
    """Return what a program printed; fail with what it complained of."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(cwd), **more}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def artefacts(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    """Return wheel and sdist, built twice."""
    built = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("built")
        called(sys.executable, "-m", "build", "--outdir", folder, repository, cwd=folder)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        built.append({"wheel": wheel, "sdist": sdist, "lowest": wheel})
    return built


@pytest.fixture(scope="session", params=KINDS)
def installed(
    request: pytest.FixtureRequest,
    artefacts: list[dict[str, Path]],
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the interpreter of an environment that holds chexmix with its own dependencies alone."""
    folder = tmp_path_factory.mktemp(request.param)
    called(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    more = os.environ.get("PIP_ARGS", "").split()
    limits = repository / KINDS[request.param]
    called(python, "-m", "pip", "install", "-q", "-c", limits, *more, artefacts[0][request.param], cwd=folder)
    return python


def found_in(python: Path) -> dict[str, Distribution]:
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    return {re.sub(r"[-_.]+", "-", one.name).lower(): one for one in distributions(path=[str(site)])}


def licences_module(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", repository / "tests/unit/test_licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_builds_are_the_same_bytes(artefacts: list[dict[str, Path]]) -> None:
    first, second = (
        {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in one.items()} for one in artefacts
    )
    assert first == second


def test_both_hold_the_licence_the_model_and_no_test(artefacts: list[dict[str, Path]]) -> None:
    with zipfile.ZipFile(artefacts[0]["wheel"]) as wheel, tarfile.open(artefacts[0]["sdist"]) as sdist:
        names = wheel.namelist()
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    assert {name for name in names if "/" in name and not re.match(r"chexmix_cli/|chexmix-[\w.-]+/", name)} == set()
    for wanted in ("assets/weights.toml", "assets/chexmix-mini/model.safetensors", "assets/chexmix-mini/MODEL_CARD.md"):
        assert f"chexmix_cli/{wanted}" in names
    for end in ("licenses/LICENSE", "licenses/NOTICE", "share/man/man1/chexmix.1"):
        assert any(name.endswith(end) for name in names), end
    assert {"pyproject.toml", "LICENSE", "NOTICE", "weights.toml", "tests/conftest.py"} <= packed
    assert not [name for name in packed if name.startswith((".venv", "build/", "demo/"))]


def test_the_environment_is_whole_and_free_of_the_gpl(installed: Path, repository: Path) -> None:
    called(installed, "-m", "pip", "check", cwd=installed.parent)
    packages, rules = found_in(installed), licences_module(repository)
    assert {"torch", "pydicom", "typer"} <= set(packages)
    extras = {"transformers", "gguf", "pytest", "pylibjpeg-libjpeg", "pyarrow", "fastapi", "pynetdicom"}
    assert not extras & set(packages)
    # What comes with CUDA is NVIDIA's own, under no licence that binds others; torch's CPU build brings none of it.
    others = {name: one for name, one in packages.items() if not name.startswith(("nvidia-", "pip", "setuptools"))}
    assert [name for name, one in others.items() if any(map(rules.is_gpl, rules.licences(one)))] == []


def test_every_module_can_be_imported(installed: Path, tmp_path: Path) -> None:
    count, failed = json.loads(called(installed, "-c", IMPORTS, cwd=tmp_path).splitlines()[-1])
    for name, error in list(failed.items()):
        missing = re.search(r"ModuleNotFoundError.*No module named '(\w+)", error)
        allowed = {package for pattern, some in FOR_EXTRAS.items() if re.fullmatch(pattern, name) for package in some}
        if missing and missing[1] in allowed:
            del failed[name]
    assert failed == {}
    assert count > 300


def test_the_demo_runs_on_the_embedded_film_and_weights(
    installed: Path, repository: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    film, chexmix = repository / "docs/images/demo-film.jpg", installed.parent / "chexmix"
    report = json.loads(called(chexmix, "generate-report", film, "--picture", tmp_path / "a.png", cwd=tmp_path))
    found = json.loads(called(chexmix, "classify", film, cwd=tmp_path))
    assert (report["status"], found["status"]) == ("ok", "ok")
    assert (tmp_path / "a.png").stat().st_size > 1000
    # Every environment reports the same, whichever of the two it was installed from.
    known = request.config.stash.setdefault(_REPORTS, [])
    known.append([report["report"], report["token_ids"]])
    assert known[-1] == known[0]


def test_a_bill_of_materials_names_every_package(installed: Path, repository: Path) -> None:
    kind = installed.parents[2].name.rstrip("0123456789")
    path = repository / "build" / f"sbom-{kind}.cdx.json"
    path.parent.mkdir(exist_ok=True)
    words = ("-m", "cyclonedx_py", "environment", "--output-reproducible", "--of", "JSON", "-o", path, installed)
    called(sys.executable, *words, cwd=installed.parent)
    components = json.loads(path.read_text())["components"]
    listed = {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"] for one in components}
    assert listed == {name: one.version for name, one in found_in(installed).items()}


_REPORTS = pytest.StashKey[list[list[Any]]]()
