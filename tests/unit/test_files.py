"""Files and folders: errors that name the file, and one writer at a time."""

from __future__ import annotations

import errno
import os
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


@pytest.mark.skipif(os.name != "posix", reason="processes are asked for by their numbers on POSIX")
def test_what_a_killed_process_left_goes_with_the_next_write_and_nobody_elses(tmp_path):
    write = (
        "import os, signal, sys; from pathlib import Path; from chexmix_cli.core.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1]) / 'result.json') as file: os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path)], check=False)
    (left,) = (path.name for path in tmp_path.iterdir())
    machine = left.removeprefix(".result.json.").rpartition("-")[0]
    others = {f".a.png.{machine}-{os.getpid()}.partial", ".b.png.elsewhere-1234567.partial", "mine.partial"}
    for name in others:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "other.json") as file:
        file.write(b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "other.json"}


def test_who_holds_a_folder_finds_no_half_written_file_in_it(tmp_path):
    (tmp_path / ".b.png.elsewhere-1234567.partial").touch()
    (tmp_path / ".c.png.elsewhere-4026531836-1234567.partial").touch()
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".film.partial").touch()  # another program's
    with held(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".film.partial", ".lock", ".model.partial"]


def test_a_held_folder_that_has_gone_is_not_made_anew(tmp_path):
    folder = tmp_path / "run"
    with held(folder):
        folder.rename(tmp_path / "moved")
        with pytest.raises(FileNotFoundError), atomic_write(folder / "inside" / "a.json"):
            pass
        assert not folder.exists()
        with atomic_write(tmp_path / "beside" / "a.json") as file:
            file.write(b"{}")
    with atomic_write(folder / "a.json") as file:
        file.write(b"{}")


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
