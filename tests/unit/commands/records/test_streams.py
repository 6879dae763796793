"""Lines in, lines out: whatever stands in them."""

from __future__ import annotations

import io
import json
import sys

import pytest

from chexmix_cli.commands.records.streams import Writer, check_arguments, error_record, read_stdin
from chexmix_cli.core.errors import DataError, Reason, SettingsError


class Terminal(io.StringIO):
    """A stdout that says it is a terminal of some encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def lines_of(monkeypatch, raw: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))
    return list(read_stdin())


def test_records_and_paths_are_told_apart_and_numbered(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b c.png").touch()
    found = lines_of(monkeypatch, b'{"id": "a"}\r\n\n  \nb c.png\n  {"id": "d"}\n')
    assert [(line.number, line.record, line.path) for line in found] == [
        (1, {"id": "a"}, None),
        (4, None, "b c.png"),
        (5, {"id": "d"}, None),
    ]


def test_a_path_keeps_its_spaces_and_its_bytes(monkeypatch, tmp_path):
    import os

    monkeypatch.chdir(tmp_path)
    for name in (b" a .png", b"\xff.png"):
        open(name, "wb").close()

    found = lines_of(monkeypatch, b" a .png\n\xff.png\n")
    assert found[0].path == " a .png"
    assert os.fsencode(found[1].path) == b"\xff.png"


def test_a_byte_order_mark_is_no_part_of_the_first_record(monkeypatch):
    assert lines_of(monkeypatch, b'\xef\xbb\xbf{"id": "\xc3\xbc"}\n')[0].record == {"id": "ü"}


@pytest.mark.parametrize(
    "line",
    ['{"id"', '{"a": -Infinity}', '{"a": Infinity}', '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", '{"a": 1}}'],
    ids=["cut", "minus infinity", "infinity", "deep", "long", "more"],
)
def test_what_is_no_record_is_a_problem_of_its_line(monkeypatch, line):
    found = lines_of(monkeypatch, f'{line}\n{{"id": "next"}}\n'.encode())
    assert found[0].problem is not None
    assert found[0].problem.code == "BAD_RECORD"
    assert "stdin:1: not JSON" in str(found[0].problem)
    assert found[1].record == {"id": "next"}


def test_nan_is_nothing(monkeypatch):
    assert lines_of(monkeypatch, b'{"id": "a", "report": NaN}')[0].record == {"id": "a", "report": None}


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        (b'[{"id": "a"},\n{"id": "b"}]\n', ["BAD_RECORD"]),
        (b'[\n {\n  "id": "Jane Roe"\n }\n]\n', ["BAD_RECORD"]),
        (b'{\n "id": "Jane Roe"\n}\n', ["BAD_RECORD"]),
        (b"file,report\na.png,Jane Roe\n", ["BAD_RECORD", "BAD_RECORD"]),
        (b"file\treport\na.png\tJane Roe\n", ["BAD_RECORD", "BAD_RECORD"]),
        (b"\xff\xfe" + "a.png;Jane Roe\n".encode("utf-16-le"), ["BAD_RECORD"]),
        ("a.png,Jane Roe\n".encode("utf-16-le"), ["BAD_RECORD"]),
    ],
    ids=["array", "pretty array", "pretty object", "csv", "tsv", "utf-16", "utf-16 without mark"],
)
def test_what_leads_to_no_file_is_no_path(monkeypatch, raw, codes):
    found = lines_of(monkeypatch, raw)
    assert [line.problem.code for line in found] == codes
    assert not any("Roe" in str(line.problem.with_hint) for line in found)
    assert [str(line.problem).partition(": ")[0] for line in found] == [f"stdin:{n + 1}" for n in range(len(codes))]


def test_a_file_that_looks_like_data_is_still_a_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("[1].png", "Roe, Jane.png"):
        (tmp_path / name).touch()
    assert [line.path for line in lines_of(monkeypatch, b"[1].png\nRoe, Jane.png\n*.png\n")] == [
        "[1].png",
        "Roe, Jane.png",
        "*.png",
    ]


def test_records_are_one_whole_ascii_line_each(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    Writer(is_json=False).write({"id": "ü\udcff\u2028\n", "status": "ok"}, "text")
    text = sys.stdout.getvalue()
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert json.loads(text)["id"] == "ü\udcff\u2028\n"


def test_a_number_that_json_lacks_is_never_written(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(ValueError, match="JSON compliant"):
        Writer(is_json=True).write({"logprob": float("nan")}, "")
    assert sys.stdout.getvalue() == ""


def test_a_terminal_gets_text_that_can_neither_steer_it_nor_fail(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal("ascii"))
    writer = Writer(is_json=False)
    assert writer.is_text
    writer.write({"id": "a"}, "red \x1b[31m, ü, \udcff\n\tnext")
    assert sys.stdout.getvalue() == "red ?[31m, ?, ?\n\tnext\n"


def test_json_can_be_forced_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8"))
    Writer(is_json=True).write({"id": "a"}, "text")
    assert sys.stdout.getvalue() == '{"id": "a"}\n'


def test_stdin_stands_alone():
    assert check_arguments(["-"]) == ["-"]
    assert check_arguments(["a", "b"]) == ["a", "b"]
    with pytest.raises(SettingsError, match="cannot be combined with other inputs"):
        check_arguments(["a", "-"])
    for nothing in (None, []):
        with pytest.raises(SettingsError, match="no input"):
            check_arguments(nothing)


def test_an_error_record_says_code_message_and_hint():
    error = DataError(Reason.NEEDS_PLUGIN, "cannot decode", detail="pylibjpeg", hint="pip install pylibjpeg")
    assert error_record("a", error) == {
        "id": "a",
        "status": "error",
        "error": {"code": "NEEDS_PLUGIN:pylibjpeg", "message": "cannot decode; hint: pip install pylibjpeg"},
    }
