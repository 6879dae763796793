"""Every command under every fault: exit codes, what is on disk, what the same command makes of it afterwards.

``make faults`` runs all cells; a few are in the suite.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.faults import FAULTS

pytest.importorskip("pynetdicom", reason="the extra clinical is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from tests.cli.conftest import film_pixels
from tests.faults.servers import CODES, NOT_APPLICABLE, Place, run_dicom, run_http

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="disks and rights are Linux's")
_COMMANDS, _FAULTS = ({one.name: one for one in some} for some in (COMMANDS, FAULTS))
_SERVERS = tuple(CODES)
CELLS = [(command, fault) for command in (*_COMMANDS, *_SERVERS) for fault in _FAULTS]
#: In the suite: cells where harm was found, and those that ask for most.
CHOSEN = [
    ("evaluate report", "kill -9 in a write"),
    ("data merge, records", "SIGTERM"),
    ("data merge, records", "an unreadable file"),
    ("tokenize", "a disk that fills"),
    ("tokenize", "no memory (torch)"),
    ("generate-report", "SIGINT"),
    ("classify", "a worker killed"),
    ("classify", "killed and moved"),
    ("retrieve index", "an unreadable file"),
]


@pytest.fixture
def run_cell(matrix, note, tmp_path_factory, debug_weights):
    """Return a function that runs a cell and takes note of what came of it."""

    def run(command: str, fault: str) -> None:
        not_applicable = NOT_APPLICABLE.get(command) or _COMMANDS[command].not_applicable
        if fault in not_applicable:
            note(command, fault, not_applicable[fault])
            return
        if command not in _SERVERS:
            note(command, fault, matrix.run(_COMMANDS[command], _FAULTS[fault]))
            return
        work = tmp_path_factory.mktemp("server")
        (work / "out").mkdir()
        with ExitStack() as stack:
            place = Place(command, work, debug_weights, stack)
            if command == "serve dicom":
                note(command, fault, run_dicom(fault, place))
            else:
                note(command, fault, run_http(fault, place, _pictures(work)))

    return run


def _pictures(folder):
    from PIL import Image

    paths = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(film_pixels(number, 64)).save(path)
    return paths


@needs_linux
@pytest.mark.faults
# pynetdicom leaves the sockets of connections that fail to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("command", "fault"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_cell(run_cell, command, fault):
    run_cell(command, fault)


@needs_linux
@pytest.mark.parametrize(("command", "fault"), CHOSEN, ids=["-".join(cell) for cell in CHOSEN])
def test_chosen(matrix, command, fault):
    matrix.run(_COMMANDS[command], _FAULTS[fault])


def test_the_page_has_every_command_and_every_fault(repository):
    text = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = text.partition("<!-- faults: tools/reliability_tables.py -->\n")[2].partition("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    assert rows[0] == [*_COMMANDS, *_SERVERS]
    assert [row[0] for row in rows[2:]] == list(_FAULTS)
    assert all(len(row) == len(rows[2]) for row in rows[2:])
    assert not [cell for row in rows for cell in row if cell == "not run"]
