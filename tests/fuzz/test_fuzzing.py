"""Every parser refuses damaged inputs with a reason, or reads them: nothing else, in little memory.

Some tens a parser; ``make fuzz`` runs as many as are asked for. ``corpus`` holds what was found, one folder a parser.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import damage
import pytest
from harness import damaged, fuzz, judge
from parsers import PARSERS, Parser, Picture

NUMBER = 40
CORPUS = Path(__file__).with_name("corpus")
FOUND = sorted(path for path in CORPUS.rglob("*") if path.is_file())

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded through /proc")


def folder_name(parser: Parser) -> str:
    return re.sub(r"\W+", "-", parser.name)


@needs_proc
@pytest.mark.parametrize("parser", PARSERS, ids=folder_name)
def test_damaged_inputs_are_refused_with_a_reason_or_read(parser, tmp_path):
    outcome = fuzz(parser, tmp_path, range(NUMBER))
    assert outcome.findings == []
    assert outcome.inputs == NUMBER
    assert outcome.refused.total() > 0  # the damage is seen


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_stays_mended(path, tmp_path, capfd):
    """The name of a file: the number it had, and the name of the seed it was made from."""
    parser = next(parser for parser in PARSERS if folder_name(parser) == path.parent.name)
    targets = parser.seeds(tmp_path)
    number, _, name = path.name.partition("-")
    target = targets[int(number) % len(targets)]
    assert target.name == name
    target.write_bytes(path.read_bytes())
    assert not judge(parser, target).startswith("!")
    assert capfd.readouterr() == ("", "")


def test_a_number_is_one_input_always():
    seeds = [bytes(range(256)) * 8, b'{"a": 1, "b": [1, 2, {"c": null}]}\n']
    made = [damaged(seeds, PARSERS[0], number) for number in range(50)]
    assert made == [damaged(seeds, PARSERS[0], number) for number in range(50)]
    assert len({data for _, data, _ in made}) > 45


def _probe(read, **options) -> Parser:
    def seeds(folder: Path) -> list[Path]:
        path = folder / "seed0" / "a.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(b'{"a": 1}\n')
        return [path]

    return Parser(name="probe", seeds=seeds, read=read, changes=damage.JSON, **options)


def _fails(path: Path) -> None:
    if path.read_bytes() != b'{"a": 1}\n':
        raise KeyError("a")


def _dies(path: Path) -> None:
    if path.read_bytes() != b'{"a": 1}\n':
        os.abort()


def _speaks(path: Path) -> None:
    if path.read_bytes() != b'{"a": 1}\n':
        os.write(2, b"oh")


def _hoards(path: Path) -> None:
    if path.read_bytes() != b'{"a": 1}\n':
        bytearray(3 << 30)


@needs_proc
@pytest.mark.parametrize(
    ("read", "said"),
    [(_fails, "KeyError"), (_dies, "ended its process"), (_speaks, "wrote to the terminal"), (_hoards, "MemoryError")],
)
def test_the_harness_finds_what_it_looks_for(read, said, tmp_path):
    outcome = fuzz(_probe(read), tmp_path, range(4))
    assert outcome.inputs == 4
    assert any(said in text for text in outcome.findings), outcome.findings


@needs_proc
def test_an_input_that_ends_its_process_changes_no_other(tmp_path):
    def dies_of_some(path: Path) -> None:
        if len(path.read_bytes()) > 300:
            os.abort()

    outcome = fuzz(_probe(dies_of_some), tmp_path, range(30))
    made = [damaged([b'{"a": 1}\n'], _probe(None), number)[1] for number in range(30)]
    long = [number for number, data in enumerate(made) if len(data) > 300]
    assert [int(text.split()[1].rstrip(":")) for text in outcome.findings] == long
    assert len(long) > 1
    assert outcome.inputs == outcome.accepted + len(long) == 30


@needs_proc
def test_a_run_goes_on_behind_the_inputs_it_has_had(tmp_path):
    whole = fuzz(_probe(_fails), tmp_path / "whole", range(20))
    part = fuzz(_probe(_fails), tmp_path / "part", range(12))
    fuzz(_probe(_fails), tmp_path / "rest", range(12, 20), outcome=part)
    assert (part.inputs, part.accepted, part.findings) == (whole.inputs, whole.accepted, whole.findings)
    assert part.cpu_s > 0


def test_the_page_has_every_parser(repository):
    text = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = text.partition("<!-- fuzz: tools/reliability_tables.py -->\n")[2].partition("<!-- end -->")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:] if line.startswith("|")]
    assert names == [parser.name for parser in PARSERS]


def test_another_picture_of_a_cut_film_is_a_finding(tmp_path):
    import numpy as np

    pixels = np.zeros((1, 4, 4), np.float32)
    whole = Picture(pixels, ("note",))
    target = tmp_path / "a"
    assert judge(_probe(lambda _: Picture(pixels, ("note",))), target, whole) == "accepted"
    assert judge(_probe(lambda _: Picture(pixels, ("note", "a frame is short"))), target, whole) == "accepted"
    assert judge(_probe(lambda _: Picture(pixels + 1, ("note",))), target, whole).startswith("!another picture")


@pytest.mark.parametrize("changes", ["BYTES", "TEXT", "JSON", "XML", "SAFETENSORS", "ZIP", "DICOM"])
def test_changes_take_anything(changes):
    generator = random.Random(3)
    for data in (b"", b"\x00", b"{}", b"PK\x03\x04", bytes(300)):
        for _ in range(20):
            assert isinstance(damage.change(data, generator, getattr(damage, changes)), bytes)
