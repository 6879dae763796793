"""Every command again, and in other ways: the same bytes, or the same ids, codes and words."""

from __future__ import annotations

import sys

import pytest

from tests.cli.test_contract import FLAGS
from tests.determinism.commands import AXES, COMMANDS
from tests.determinism.compare import RULES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
_COMMANDS = {command.name: command for command in COMMANDS}
#: In the suite: cells where something was found, and one at least of each way.
CHOSEN = [
    ("generate-report, pages, pictures, documents", "again"),
    ("tokenize, shards", "again"),
    ("pretrain, tokenizer", "again"),
    ("finetune, report", "again"),
    ("weights convert", "again"),
    ("generate-report", "batch size"),
    ("tokenize, shards", "workers"),
    ("retrieve index", "shares"),
    ("generate-report, int8", "tokens"),
    ("classify, embeddings", "threads"),
]
CELLS = [(command.name, axis) for command in COMMANDS for axis in AXES if not isinstance(command.ways.get(axis), str)]


@pytest.mark.determinism
# pynetdicom leaves the sockets of connections that fail to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("command", "axis"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_cell(matrix, note, command, axis):
    note(command, axis, matrix.run(_COMMANDS[command], axis))


@pytest.mark.slow
def test_chosen_cells(matrix):
    """One test, since its inputs take seconds to make: two workers would make them twice."""
    for command, axis in CHOSEN:
        matrix.run(_COMMANDS[command], axis)


def test_every_command_is_in_the_matrix_with_every_way():
    """``tests/cli/test_contract.py`` holds that ``FLAGS`` has every command of the app."""
    assert {name.partition(",")[0] for name in _COMMANDS} == set(FLAGS)
    assert len(_COMMANDS) == len(COMMANDS)
    for command in COMMANDS:
        assert {*command.ways, "again"} == set(AXES), command.name


def test_the_page_has_every_command_and_every_way(repository):
    text = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = text.partition("<!-- determinism: tools/determinism_table.py -->\n")[2].partition("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    assert rows[0] == list(AXES)
    assert [row[0] for row in rows[2:]] == list(_COMMANDS)
    assert all(len(row) == 1 + len(AXES) for row in rows[2:])
    for rule in RULES:
        assert rule in table.replace("\n", " ")
