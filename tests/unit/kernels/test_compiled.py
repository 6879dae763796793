"""The library of the kernels in C: how it is compiled, found and refused."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from chexmix_cli.core.kernels.compiled import build, library


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return a library compiled now, into a folder of its own, or skip."""
    path = tmp_path_factory.mktemp("native") / "lib.so"
    problem = build.build(path, level="-O1")
    if problem is not None:
        assert not path.exists()
        pytest.skip(problem)
    return path


def test_a_library_is_compiled_says_its_source_and_asks_for_an_old_glibc(compiled):
    assert [path.name for path in compiled.parent.iterdir()] == ["lib.so"]
    found = library.library.__wrapped__(compiled)
    assert found.chexmix_source().decode() == build.source_hash()
    for name in ("product", "convolution", "group_norm", "attend", "branches"):
        assert hasattr(found, f"chexmix_{name}")
    if shutil.which("objdump"):
        said = subprocess.run(["objdump", "-T", str(compiled)], capture_output=True, text=True, check=True).stdout
        asked = [tuple(map(int, number.split("."))) for number in re.findall(r"GLIBC_([\d.]+)", said)]
        assert max(asked) <= (2, 17), "manylinux2014"


def test_a_change_of_any_source_changes_the_hash(tmp_path, monkeypatch):
    before = build.source_hash()
    assert {path.suffix for path in (*build.SOURCES, *build.HEADERS)} == {".c", ".h"}
    for name in ("SOURCES", "HEADERS"):
        paths = getattr(build, name)
        copy = tmp_path / paths[-1].name
        copy.write_bytes(paths[-1].read_bytes() + b"\n")
        monkeypatch.setattr(build, name, [*paths[:-1], copy])
        assert build.source_hash() != before
        monkeypatch.undo()


def test_a_library_of_another_source_is_not_taken(compiled, monkeypatch):
    monkeypatch.setattr(library, "source_hash", lambda: "another")
    assert "another version of its source" in library.library.__wrapped__(compiled)


def test_without_a_compiler_there_is_a_reason_and_no_library(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "no C compiler" in (build.build(tmp_path / "lib.so") or "")
    monkeypatch.setenv("CC", "/bin/false")
    assert "/bin/false ended with 1" in (build.build(tmp_path / "lib.so") or "")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_or_damaged_is_not_taken(tmp_path):
    load = library.library.__wrapped__
    assert "not compiled" in load(tmp_path / "lib.so")
    (tmp_path / "lib.so").write_bytes(b"nothing of the kind")
    assert "cannot be loaded" in load(tmp_path / "lib.so")
