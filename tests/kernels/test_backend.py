"""Which implementation runs: explicit, checked, never a silent fallback."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import MachineError, SettingsError
from chexmix_cli.core.kernels import backend

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backend.shutil, "which", lambda name: name)
    monkeypatch.setattr(backend.sysconfig, "get_config_var", {"INCLUDEPY": str(tmp_path)}.get)
    (tmp_path / "Python.h").touch()
    backend._decide.cache_clear()
    yield
    backend._decide.cache_clear()


def test_auto_takes_torch_on_a_cpu_even_under_the_interpreter(monkeypatch):
    monkeypatch.setenv("CHEXMIX_KERNELS", "auto")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not backend.uses_triton(CPU)


def test_triton_where_it_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setenv("CHEXMIX_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(MachineError, match="Triton kernels cannot run: the tensors are on the CPU"):
        backend.uses_triton(CPU)
    with pytest.raises(MachineError, match="no kernel for meta"):
        backend.uses_triton(torch.device("meta"))
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    backend._decide.cache_clear()
    with pytest.raises(MachineError, match="the package triton is not installed"):
        backend.uses_triton(CPU)


def test_triton_runs_on_a_cpu_in_the_interpreter_when_asked_for(monkeypatch):
    monkeypatch.setenv("CHEXMIX_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend.uses_triton(CPU)


def test_torch_is_torch_and_other_words_are_refused(monkeypatch):
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    assert not backend.uses_triton(torch.device("cuda", 0))
    monkeypatch.setenv("CHEXMIX_KERNELS", "fast")
    with pytest.raises(SettingsError, match="is 'fast'; expected auto, triton, torch"):
        backend.uses_triton(CPU)


def test_auto_wants_what_triton_builds_its_launchers_with(monkeypatch, tmp_path):
    """Without a compiler the first kernel would fail; torch computes the same."""
    monkeypatch.setenv("CHEXMIX_KERNELS", "auto")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (9, 0))
    monkeypatch.delenv("CC", raising=False)
    compilers = {"clang"}
    monkeypatch.setattr(backend.shutil, "which", lambda name: name if name in compilers else None)
    assert backend.uses_triton(torch.device("cuda", 0))
    compilers.clear()
    backend._decide.cache_clear()
    assert not backend.uses_triton(torch.device("cuda", 0))
    monkeypatch.setenv("CHEXMIX_KERNELS", "triton")
    with pytest.raises(MachineError, match="there is no C compiler"):
        backend.uses_triton(torch.device("cuda", 0))
    monkeypatch.setenv("CC", "/opt/cc")
    (tmp_path / "Python.h").unlink()
    with pytest.raises(MachineError, match="Python's headers are not installed"):
        backend.uses_triton(torch.device("cuda", 0))


def test_a_gpu_too_old_keeps_torch_and_a_newer_one_takes_triton(monkeypatch):
    monkeypatch.setenv("CHEXMIX_KERNELS", "auto")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (7, 5))
    assert not backend.uses_triton(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (9, 0))
    assert backend.uses_triton(torch.device("cuda", 1))
