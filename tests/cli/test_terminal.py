"""What a person sees: the commands on a pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import typer
from test_contract import built_commands

from chexmix_cli.app import app

pty = pytest.importorskip("pty", reason="pseudo-terminals are a Unix matter")

HELP = {"help_option_names": ["-h", "--help"]}
GROUPS = ("evaluate", "retrieve", "plan", "data", "weights")
SHORT = ("--set", "decode.max_new_tokens=12")


@pytest.fixture
def on_terminal(repository):
    """Return a function that runs ``chexmix`` with stdout, or stderr, on a terminal; it gives code, stdout, stderr."""

    def run(*arguments: object, stream: str = "stdout", environment: dict[str, str] | None = None):
        master, slave = pty.openpty()
        other = "stderr" if stream == "stdout" else "stdout"
        streams = {stream: slave, other: subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-m", "chexmix_cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            cwd=repository,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **(environment or {})},
            **streams,
        )
        os.close(slave)
        seen = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux says so when the last writer has gone
                break
            if not piece:
                break
            seen += piece
        os.close(master)
        rest = getattr(process, other).read().decode()
        getattr(process, other).close()
        code = process.wait(timeout=120)
        text = seen.decode().replace("\r\n", "\n")
        return (code, text, rest) if stream == "stdout" else (code, rest, text)

    return run


def test_tokens_are_told_in_words(on_terminal, films, debug_weights):
    code, stdout, stderr = on_terminal("tokenize", films, "--weights", debug_weights)
    assert code == 0
    # What the pictures leave in doubt stands indented under each.
    lines = [line for line in stdout.splitlines() if not line.startswith(" ")]
    assert [line.split(":")[0] for line in lines] == ["a.png", "b.png", "c.png"]
    assert re.search(r"a\.png: unknown view, 16 codes, \d+ different", stdout)
    assert stderr == ""


def test_json_is_forced_by_its_flag(on_terminal, films, debug_weights):
    _, stdout, _ = on_terminal("tokenize", films, "--weights", debug_weights, "--json")
    assert [json.loads(line)["id"] for line in stdout.splitlines()] == ["a.png", "b.png", "c.png"]


def test_reports_are_read_with_their_mark_and_their_notes(on_terminal, call, films, debug_weights):
    (films / "b.png").write_bytes(b"nothing")
    flags = ("--weights", debug_weights, *SHORT)
    code, stdout, stderr = on_terminal("generate-report", films, *flags)
    assert code == 3
    assert "not for clinical use" in stderr
    records = call("generate-report", films, *flags).records
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in records[0]["report"])
    assert f"a.png (unknown view)\n{shown}\n" in stdout
    assert re.search(r"^b\.png: not done \(UNKNOWN_FORMAT\): ", stdout, re.MULTILINE)
    assert stdout.index("a.png") < stdout.index("b.png") < stdout.index("c.png")


def test_a_table_says_what_was_not_done(on_terminal, films, debug_weights):
    (films / "b.png").write_bytes(b"nothing")
    code, stdout, stderr = on_terminal("tokenize", films, "--weights", debug_weights, stream="stderr")
    assert code == 3
    assert len(stdout.splitlines()) == 3
    assert "2 of 3 records done; 1 not:" in stderr
    assert re.search(r"UNKNOWN_FORMAT\W+1\b", stderr)


def test_a_bar_on_the_terminal_takes_no_record_from_the_pipe(on_terminal, films, debug_weights):
    code, stdout, stderr = on_terminal("tokenize", films, "--weights", debug_weights, stream="stderr")
    assert code == 0
    assert [json.loads(line)["id"] for line in stdout.splitlines()] == ["a.png", "b.png", "c.png"]
    assert "tokenize" in stderr
    assert "3/3" in stderr, "files are counted first"


def test_colour_can_be_turned_off(on_terminal, films, debug_weights):
    (films / "b.png").write_bytes(b"nothing")
    flags = ("tokenize", films, "--weights", debug_weights)
    colour = re.compile(r"\x1b\[[0-9;]*[34][0-7]m")
    _, _, plain = on_terminal(*flags, stream="stderr", environment={"NO_COLOR": "1"})
    assert not colour.search(plain)


def test_quiet_leaves_only_errors(on_terminal, films, debug_weights):
    (films / "b.png").write_bytes(b"nothing")
    code, stdout, stderr = on_terminal("tokenize", films, "--weights", debug_weights, "--quiet", stream="stderr")
    assert (code, stderr) == (3, "")
    assert len(stdout.splitlines()) == 3
    code, _, stderr = on_terminal("tokenize", films, "--weights", "none", "--quiet", stream="stderr")
    assert (code, stderr.startswith("error: ")) == (1, True)


def uncut(text: str, width: int) -> bool:
    """Tell whether no line is wider than the terminal, but for a word that is."""
    return all(len(line) <= width or len(line.split()) == 1 for line in text.splitlines())


@pytest.mark.parametrize("width", [80, 60])
def test_no_help_cuts_a_word(width, monkeypatch, call):
    """Every command and group: the words of its help are those of a page without bound, and lines fit."""
    monkeypatch.setenv("COLUMNS", str(width))
    group = typer.main.get_command(app)
    commands = built_commands() | {name: group.get_command(typer.Context(group), name) for name in GROUPS}
    for name, command in commands.items():
        context = typer.Context(command, info_name=f"chexmix {name}", terminal_width=1000, **HELP)
        shown = call(*name.split(), "--help").stdout
        # Commands that take several lines are continued by a backslash, as a shell reads them.
        assert [word for word in shown.split() if word != "\\"] == command.get_help(context).split(), name
        assert uncut(shown, width - 2), name


def test_what_a_terminal_shows_cuts_no_word(on_terminal, call, films, debug_weights):
    width = 60
    (films / "b.png").write_bytes(b"nothing")
    narrow = {"COLUMNS": str(width)}
    code, stdout, _ = on_terminal("classify", films, "--weights", debug_weights, "--zero-shot", environment=narrow)
    assert (code, uncut(stdout, width)) == (3, True), stdout
    told = call("classify", films / "b.png", "--weights", debug_weights, "--zero-shot").records[0]["error"]["message"]
    assert len(f"b.png: not done (UNKNOWN_FORMAT): {told}") > width
    assert " ".join(told.split()) in " ".join(stdout.split())
    code, _, stderr = on_terminal(
        "plan", "generate-report", "--weights", "nowhere", stream="stderr", environment=narrow
    )
    assert (code, uncut(stderr, width)) == (1, True), stderr
    assert len(" ".join(stderr.split())) > width
    for command in (("weights", "check", debug_weights), ("plan", "generate-report", "--weights", debug_weights)):
        _, stdout, _ = on_terminal(*command, environment=narrow)
        assert uncut(stdout, width), stdout


def test_a_terminal_says_how_wide_it_is(repository):
    """By its size, where no variable does."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 44, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    subprocess.run(
        [sys.executable, "-m", "chexmix_cli", "weights", "info", "nowhere"],
        stdin=slave, stdout=slave, stderr=slave, cwd=repository, env=environment, check=False,
    )  # fmt: skip
    os.close(slave)
    seen = os.read(master, 65536).decode().replace("\r\n", "\n")
    os.close(master)
    assert uncut(seen, 44)
    assert max(map(len, seen.splitlines())) > 30
