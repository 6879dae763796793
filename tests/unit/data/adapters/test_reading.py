"""Pieces that all readers share: text, sections, labels, JSON in pieces, texts on disk."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from chexmix_cli.core.data.adapters import json_stream
from chexmix_cli.core.data.adapters.json_stream import JsonStream
from chexmix_cli.core.data.adapters.label_table import LabelTable
from chexmix_cli.core.data.adapters.reading import last_paragraph, read_report, read_split, tidy
from chexmix_cli.core.data.adapters.text_store import TextStore
from chexmix_cli.core.data.labels import listed_labels, parse_label
from chexmix_cli.core.errors import DataError


@pytest.mark.parametrize(
    ("cell", "label"),
    [("1.0", 1), ("1", 1), (1, 1), ("0", 0), ("0.0", 0), ("-1.0", -1), (-1.0, -1), (" 1 ", 1), (True, 1), ("False", 0)]
    + [("", None), (" ", None), ("nan", None), (float("nan"), None), (None, None), ("None", None), ("N/A", None)],
)
def test_a_cell_is_a_label(cell, label):
    assert parse_label(cell, "Edema") == label
    assert type(parse_label(cell, "Edema")) is type(label)


@pytest.mark.parametrize("cell", ["2", "0.5", "yes", "inf", "1e", "--1", [], 2.0])
def test_a_cell_that_is_no_label_is_an_error(cell):
    with pytest.raises(DataError, match="label 'Edema' is"):
        parse_label(cell, "Edema")


def test_a_list_states_absence_only_of_what_it_is_asked_for():
    assert listed_labels(["b", "a"], ["a", "c"]) == {"b": 1, "a": 1, "c": 0}
    assert listed_labels(["pulmonary mass"], ["Mass", "edema"]) == {"pulmonary mass": 1, "edema": 0}
    assert listed_labels([], ()) == {}


def test_tidy_undoes_line_breaks_and_drops_no_word():
    assert tidy(" The lungs\n are clear.\r\n\r\n 1. One\n \n\n2.\tTwo ") == "The lungs are clear.\n1. One\n2. Two"
    assert [tidy(text) for text in ("", " \n ", "nan", "None", "NULL", None, 3.5)] == [None] * 7
    assert tidy("None.") == "None."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FINAL REPORT\nCHEST\n\nThe lungs\nare clear.", "The lungs are clear."),
        ("The lungs are clear.", "The lungs are clear."),
        ("FINAL REPORT\n The lungs are clear.", "The lungs are clear."),
        ("HISTORY: Fall.\n\nCOMPARISON: None.\n\nNo fracture.", "No fracture."),
        ("HISTORY: Fall.\n\nPA AND LATERAL CHEST: No fracture.", "PA AND LATERAL CHEST: No fracture."),
        ("HISTORY: Fall.\n\nCOMPARISON: None.", None),
        ("No fracture.\n\nNOTIFICATION:\n\nCalled.\n\nAt noon.", None),
        ("INDICATION:\n\n", None),
        ("FINAL REPORT\n\n", None),
    ],
)
def test_the_last_paragraph_is_taken_only_where_it_is_the_radiologists(text, found):
    assert last_paragraph(text) == found


def test_a_report_with_either_section_needs_no_fallback():
    report = read_report("IMPRESSION: Normal.\n\nSomething else.", fallback="last_paragraph")
    assert (report.findings, report.impression) == (None, "Normal.\nSomething else.")
    assert read_report("no headings", fallback="none").notes == {}
    assert read_report("nan", fallback="whole").findings is None


def test_splits_have_many_names_and_others_are_errors():
    assert [read_split(name) for name in ("Training", "validate", "dev", "TEST", "", "nan", None)] == [
        "train", "val", "val", "test", None, None, None,
    ]  # fmt: skip
    with pytest.raises(DataError, match="split is a text of 5 characters; expected train,"):
        read_split("fold1")


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_json_in_pieces_is_the_same_json(tmp_path, monkeypatch, chunk):
    values = {
        'a\n"é': {"x": [1, 2.5, -3, True, None, "}{][,:"], "y": {}},
        "b": 123456,
        "c": [],
        "d": "text",
        "": [[], {}, "", 0],
    }
    path = tmp_path / "a.json"
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    for text in (json.dumps(values), json.dumps(values, indent=3, ensure_ascii=False), "\ufeff" + json.dumps(values)):
        path.write_text(text, encoding="utf-8")
        with JsonStream(path) as stream:
            assert {key: stream.value() for key in stream.members()} == values
            assert stream.peek() == ""
    path.write_text(json.dumps({"k": list(values.values())}))
    with JsonStream(path) as stream:
        assert {key: list(stream.items()) for key in stream.members()} == {"k": list(values.values())}


def read_all(path):
    with JsonStream(path) as stream:
        return {key: list(stream.items()) if stream.peek() == "[" else stream.value() for key in stream.members()}


@pytest.mark.parametrize(
    "text", ["", "{", '{"a"', '{"a": ', '{"a": 1', '{"a": [1, 2', '{"a" 1}', '{"a": 1 "b": 2}', "[1]", "{1: 2}", "nul"]
)
def test_json_that_ends_early_is_an_error(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a.json: not readable as JSON"):
        read_all(path)


def test_json_that_is_not_there_or_no_text_is_an_error(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        JsonStream(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with JsonStream(tmp_path / "a.json") as stream, pytest.raises(DataError, match="not UTF-8"):
        list(stream.members())


def test_a_large_json_takes_little_memory(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({f"study{number}": {"Findings": "clear " * 400} for number in range(10_000)}))
    assert path.stat().st_size > 24e6
    tracemalloc.start()
    with JsonStream(path) as stream:
        count = sum(len(stream.value()) for _ in stream.members())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 8e6


def test_texts_on_disk_come_back():
    with TextStore() as store:
        store.put("a", ["Größe\n", None])
        store.put("b", [])
        store.put("a", ["later"])
        assert "a" in store
        assert (store.get("a"), store.get("b"), store.get("c"), len(store)) == (["later"], [], None, 2)


def test_labels_by_key_keep_missing_columns_and_bad_rows_apart():
    table = LabelTable(["Edema", "Mass", "Nodule"], "t.csv")
    table.put("1", {"Edema": "-1", "Nodule": "", "Other": "x"})
    table.put("2", {"Edema": "maybe"})
    assert table.get("1") == {"Edema": -1, "Nodule": None}
    assert table.get("3") is None
    with pytest.raises(DataError, match="label 'Edema' is a text of 5 characters"):
        table.get("2")
