"""How a command ends when the machine, the user or a bug ends it: real signals, a full disk, no memory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture
def fail_with(monkeypatch):
    """Return a function that makes every command fail with an error of someone else's."""

    def install(error: BaseException) -> None:
        def broken(assignments):
            raise error

        monkeypatch.setattr("chexmix_cli.commands.shared.command.parse_assignments", broken)

    return install


def test_a_bug_exits_70_and_shows_no_values(call, fail_with):
    fail_with(RuntimeError("Zephyranthes"))
    result = call("tokenize", "x")
    assert result.code == 70
    assert result.stderr == (
        "error: unexpected RuntimeError: this is a bug of chexmix\n"
        "hint: run again with -v for the traceback, and report it\n"
    )
    assert result.stdout == ""


@pytest.mark.parametrize("flag", ["-v", "--verbose", "-qv"])
def test_the_traceback_is_shown_on_request(call, fail_with, monkeypatch, flag):
    """Without the message, which may quote a header; an environment variable shows that, too."""
    fail_with(RuntimeError("why"))
    result = call("tokenize", "x", flag)
    assert result.code == 70
    assert "Traceback" in result.stderr
    assert "raise error\nRuntimeError\n" in result.stderr
    assert "why" not in result.stderr
    monkeypatch.setenv("CHEXMIX_DEBUG", "1")
    assert "RuntimeError: why" in call("tokenize", "x", flag).stderr


def test_an_end_of_file_inside_is_a_bug_and_no_interruption(call, fail_with):
    fail_with(EOFError())
    result = call("tokenize", "x")
    assert (result.code, "unexpected EOFError" in result.stderr) == (70, True)


def test_no_memory_exits_4(call, fail_with):
    torch = pytest.importorskip("torch")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), _of_torchs_allocator(torch)):
        fail_with(error)
        result = call("tokenize", "x")
        assert (result.code, "not enough memory" in result.stderr) == (4, True), result.stderr


def _of_torchs_allocator(torch) -> RuntimeError:
    """Return what torch itself raises on a CPU, which is of no type of its own."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    return caught.value


def test_a_refused_file_exits_4_without_its_name(call, fail_with):
    fail_with(PermissionError(13, "Permission denied", "/films/Zephyranthes.dcm"))
    result = call("tokenize", "x")
    assert result.code == 4
    assert "Permission denied" in result.stderr
    assert "Zephyranthes" not in result.stderr


def test_interruption_exits_130(call, fail_with):
    fail_with(KeyboardInterrupt())
    result = call("tokenize", "x")
    assert (result.code, result.stderr.splitlines()[-1]) == (130, "error: interrupted")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_exits_4(repository, films, debug_weights):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "chexmix_cli", "tokenize", films, "--weights", debug_weights],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=repository,
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr.splitlines()[0] == "error: the system refused a file: No space left on device"
    assert "Traceback" not in done.stderr


def test_control_c_ends_a_running_command_with_130(repository, films, debug_weights):
    """The first record is out, the second never comes: the command waits on stdin when the signal arrives."""
    process = subprocess.Popen(
        [sys.executable, "-m", "chexmix_cli", "tokenize", "-", "--weights", debug_weights],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=repository,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("{broken\n")
    process.stdin.flush()
    assert '"BAD_RECORD"' in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "error: interrupted"
    assert "stopped; written before that: 1 record. To go on, give the inputs that are left" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_every_finished_record_is_in_the_table_of_a_stopped_run(repository, films, tmp_path, debug_weights, how):
    """A scheduler's SIGTERM and a closed terminal end a run as Ctrl-C does."""
    import csv

    if signal.getsignal(how) is signal.SIG_IGN:
        pytest.skip(f"this process ignores {how.name}, as under nohup, and so do those it starts")
    table, refused = tmp_path / "codes.csv", tmp_path / "refused.jsonl"
    # More than the run gets through until the signal comes, which is when the first failure has been noted.
    (films / "a.png").write_bytes(b"nothing")
    for number in range(300):
        shutil.copy(films / "b.png", films / f"more-{number:03}.png")
    command = [sys.executable, "-m", "chexmix_cli", "classify", films, "--weights", debug_weights, "--embeddings"]
    command += ["-o", table, "--quarantine", refused, "--layer", "1", "--device", "cpu"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, cwd=repository)
    deadline = time.monotonic() + 120
    while not (refused.exists() and refused.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    said = re.search(r"stopped; written before that: (\d+) records?\. The same command goes on behind them", stderr)
    assert said is not None, stderr
    rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
    names = ["a.png", "b.png", "c.png", *(f"more-{number:03}.png" for number in range(300))]
    assert [row["id"] for row in rows] == names[: int(said[1])]
    assert f"{table}: {said[1]} record" in stderr


def test_a_request_to_stop_does_not_part_what_is_said_of_a_record_that_failed():
    """One that failed is of no batch; its note was written and its record was not."""
    from chexmix_cli.commands.shared.stopping import StopRequests

    done = []

    def fails_alone():
        with StopRequests() as stops:
            with stops.held():
                signal.raise_signal(signal.SIGTERM)
                done.append("record")
            done.append("next")

    def fails_in_a_batch():
        with StopRequests() as stops:
            stops.hold()
            with stops.held():
                signal.raise_signal(signal.SIGTERM)
            done.append("rest of the batch")
            stops.release()

    with pytest.raises(KeyboardInterrupt):
        fails_alone()
    assert done == ["record"]
    with pytest.raises(KeyboardInterrupt):
        fails_in_a_batch()
    assert done == ["record", "rest of the batch"]


def test_a_request_to_stop_waits_for_the_records_of_a_batch_and_a_second_does_not():
    from chexmix_cli.commands.shared.stopping import StopRequests

    before = signal.getsignal(signal.SIGTERM)
    with StopRequests() as stops:
        stops.hold()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stops.release()
        stops.hold()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stops.hold()
        stops.release()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_stopped_training_leaves_a_checkpoint_and_exits_130(repository, films, tmp_path):
    import json

    lines = [
        {"id": f"{split}-{name}", "file": f"{name}.png", "split": split, "findings": "Clear lungs."}
        for split in ("train", "val")
        for name in "abc"
    ]
    (films / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "chexmix_cli", "pretrain", "--stage", "tokenizer", "--preset", "debug"]
    command += ["--manifest", str(films / "manifest.jsonl"), "--out", str(tmp_path / "run")]
    command += ["--set", "train.steps=100000", "--set", "train.validate_every=100000"]
    command += ["--set", "train.checkpoint_every=100000"]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "a checkpoint is written" in stderr.splitlines()[-1]
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*/checkpoint.json"))


def test_a_reader_that_stops_early_ends_the_command_silently(repository, films, debug_weights):
    for number in range(40):
        shutil.copy(films / "a.png", films / f"more-{number}.png")
    done = _into_head(repository, f"tokenize {films} --weights {debug_weights} --set input.batch_size=1")
    assert done.returncode in (0, 128 + signal.SIGPIPE)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_reader_that_stops_early_does_not_take_the_page_with_it(repository, films, tmp_path, debug_weights):
    for number in range(100):
        shutil.copy(films / "a.png", films / f"more-{number}.png")
    page = tmp_path / "page.html"
    flags = f"--weights {debug_weights} --embeddings --html {page} --set input.batch_size=1"
    done = _into_head(repository, f"classify {films} {flags}")
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == f"{page}: a page\n"
    assert "a.png" in page.read_text()
    assert "more-99.png" not in page.read_text()


def _into_head(repository, arguments):
    command = f"{sys.executable} -m chexmix_cli {arguments} | head -n 1; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=repository, check=False)
