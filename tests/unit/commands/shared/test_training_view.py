"""What people see of a training run."""

from __future__ import annotations

import io
import json
import sys

import pytest

from chexmix_cli.commands.shared.console import Console
from chexmix_cli.commands.shared.training_view import TrainingView

TRAIN = {"step": 4, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.7, "order": "a1b2", "examples_per_s": 12.0}
TRAIN |= {"tokens_per_s": 9600.0, "mfu": 0.4321, "left_s": 305.2}
BEST = {"step": 4, "val_loss": 2.25, "best": True}
LATER = {"step": 8, "val_loss": 2.75, "best": False}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # In the test itself: pytest puts its own stream back after the fixtures.
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    return stream


def test_elsewhere_every_record_is_a_line(capsys):
    view = TrainingView(Console(is_quiet=False, is_verbose=False), 8, is_json=False)
    view.progress("read images", 2, 3)
    view.progress("read images", 3, 3)
    for record in (TRAIN, BEST, {"remark": "resumed after step 2"}):
        view.report(record)
    view.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "read images: 3"
    figures = "step 4  loss 2.5  learning_rate 0.001  grad_norm 0.7  examples_per_s 12  tokens_per_s 9600  mfu 0.4321"
    assert lines[1] == f"{figures}  left 5 min"
    assert lines[2:] == ["step 4  val_loss 2.25  best True", "resumed after step 2"]


def test_a_terminal_has_a_table_with_the_best_beside_the_last(monkeypatch):
    terminal = make_terminal(monkeypatch)
    view = TrainingView(Console(is_quiet=False, is_verbose=False), 8, is_json=False)
    view.progress("read images", 1, 3)
    for record in ({"remark": "resumed after step 2"}, TRAIN, BEST):
        view.report(record)
    view._live.refresh()
    # The run's own word: rich would say nothing yet.
    assert "left: 5 min" in terminal.getvalue()
    view.report(LATER)
    view.close()
    seen = terminal.getvalue()
    assert "resumed after step 2" in seen
    last = seen[seen.rindex("validation") :]
    assert "best (step 4)" in last
    assert last.splitlines()[1].split()[-4:] == ["loss", "2.5", "2.75", "2.25"]
    assert "8/8" in seen
    assert "learning_rate 0.001  grad_norm 0.7  examples_per_s 12  tokens_per_s 9600  mfu 0.4321" in last
    assert "a1b2" not in seen


def test_a_dumb_terminal_gets_lines(monkeypatch):
    terminal = make_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    view = TrainingView(Console(is_quiet=False, is_verbose=False), 8, is_json=False)
    view.report(TRAIN)
    view.close()
    # Folded where the terminal ends.
    assert " ".join(terminal.getvalue().split()).endswith("tokens_per_s 9600 mfu 0.4321 left 5 min")
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize(("is_terminal", "is_json", "count"), [(False, False, 2), (True, False, 0), (True, True, 2)])
def test_records_are_data_remarks_are_not(monkeypatch, is_terminal, is_json, count):
    """As of every command: JSON Lines to a file or a program, and to a terminal where they are asked for."""
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    view = TrainingView(Console(is_quiet=True, is_verbose=False), 8, is_json=is_json)
    for record in (TRAIN, BEST, {"remark": "resumed after step 2"}):
        view.report(record)
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [TRAIN, BEST][:count]


def test_quiet_shows_nothing(monkeypatch):
    terminal = make_terminal(monkeypatch)
    view = TrainingView(Console(is_quiet=True, is_verbose=False), 8, is_json=False)
    view.progress("read images", 3, 3)
    for record in (TRAIN, BEST, {"remark": "resumed after step 2"}):
        view.report(record)
    view.close()
    assert terminal.getvalue() == ""
