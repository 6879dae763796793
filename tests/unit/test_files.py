"""Files and folders: errors that name the file, and one writer at a time."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.files import atomic_write, held


def test_a_full_disk_is_named_by_the_file_and_leaves_nothing(tmp_path):
    """A write that the system refuses says no name of its own."""
    path = tmp_path / "whole.json"
    path.write_text("before")

    def refused() -> None:
        with atomic_write(path) as file:
            file.write(b"after")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        refused()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["whole.json"]
    assert path.read_text() == "before"


def test_the_command_line_says_which_file_the_full_disk_refused(monkeypatch, capsys):
    import chexmix_cli.__main__ as main

    error = OSError(errno.ENOSPC, "No space left on device")
    error.filename = "/runs/metrics.jsonl"
    assert main._foreign(error, verbose=False) == 4
    assert "the disk is full: /runs/metrics.jsonl could not be written" in capsys.readouterr().err
    assert main._foreign(PermissionError(errno.EACCES, "denied", "/films/Doe^Jane.dcm"), verbose=False) == 4
    assert "Jane" not in capsys.readouterr().err


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "run"
    other = (
        f"from pathlib import Path; from chexmix_cli.core.files import held; held(Path({str(folder)!r})).__enter__()"
    )
    with held(folder):
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert "another process is writing it" in done.stderr
        with pytest.raises(MachineError, match="another process is writing it"), held(folder):
            pass
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
