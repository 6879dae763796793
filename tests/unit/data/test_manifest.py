"""The manifest: what is written comes back, and what is wrong in one has a line."""

from __future__ import annotations

import json
import os

import pytest

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest, write_manifest
from chexmix_cli.core.errors import DataError, MachineError


def make_rows(folder):
    return [
        ManifestRow(
            id="a",
            file=folder / "images" / "a.png",
            study="s",
            patient="p",
            view="FRONTAL",
            split="val",
            labels={"Edema": -1, "Mass": None, "No Finding": 0},
            findings="Größe:\nnormal.",
            impression=None,
            notes={"view_source": "projection"},
        ),
        ManifestRow(id="b", file=folder.parent / "elsewhere" / "b.png"),
    ]


def test_rows_come_back(tmp_path):
    path = tmp_path / "new" / "folder" / "m.jsonl"
    rows = make_rows(tmp_path / "new" / "folder")
    assert write_manifest(path, rows) == 2
    assert list(read_manifest(path)) == rows
    assert [row.id for row in read_manifest(path, split="val")] == ["a"]
    files = [json.loads(line)["file"] for line in path.read_text().splitlines()]
    assert files == ["images/a.png", str(tmp_path / "new" / "elsewhere" / "b.png")]
    assert [json.loads(line).keys() for line in path.read_text().splitlines()][1] == {
        "id", "study", "patient", "file", "view", "split", "labels", "findings", "impression",
    }  # fmt: skip


def test_a_path_that_is_not_normal_stays_the_same_file(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "work" / "m.jsonl"
    write_manifest(path, [ManifestRow(id="a", file=path.parent / ".." / "data" / "a.png")])
    assert next(read_manifest(path)).file == tmp_path / "data" / "a.png"


def test_an_import_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("before\n")

    def rows():
        yield from make_rows(tmp_path)
        raise DataError("BAD_RECORD", "stop")

    with pytest.raises(DataError, match="stop"):
        write_manifest(path, rows())
    assert path.read_text() == "before\n"
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="manifest cannot be written"):
        write_manifest(tmp_path / "file" / "m.jsonl", make_rows(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "m.jsonl:2: not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"id": "\xff", "file": "x"}', "m.jsonl:2: not UTF-8"),
        (b'{"file": "x"}', "no id"),
        (b'{"id": "", "file": "x"}', "no id"),
        (b'{"id": "b"}', "no file"),
        (b'{"id": "a", "file": "x"}', "id 'a' occurs twice"),
        (b'{"id": "b", "file": "x", "finding": "x"}', "unknown field 'finding'"),
        (b'{"id": ["b"], "file": "x"}', "id is no text"),
        (b'{"id": true, "file": "x"}', "id is no text"),
        (b'{"id": 1.5, "file": "x"}', "id is no text"),
        (b'{"id": "b", "file": 7}', "file is no text"),
        (b'{"id": "b", "file": "x", "study": 7.5}', "study is no text"),
        (b'{"id": "b", "file": "x", "findings": ["x"]}', "findings is no text"),
        (b'{"id": "b", "file": "x", "view": "pa"}', "view is 'pa'; expected PA, AP, FRONTAL, LATERAL, OTHER or null"),
        (b'{"id": "b", "file": "x", "view": "Smith"}', "view is a text of 5 characters; expected PA, "),
        (b'{"id": "b", "file": "x", "age": 19590723}', "age is a value of type int; expected years"),
        (b'{"id": "b", "file": "x", "split": "valid"}', "split is 'valid'; expected train, val, test or null"),
        (b'{"id": "b", "file": "x", "labels": ["Edema"]}', "labels is a list"),
        (b'{"id": "b", "file": "x", "notes": "x"}', "notes is a str"),
        (b'{"id": "b", "file": "x", "labels": {"Edema": 2}}', "label 'Edema' is 2"),
        (b'{"id": "b", "file": "x", "labels": {"Edema": 0.5}}', "label 'Edema' is 0.5"),
        (
            b'{"id": "b", "file": "x", "labels": {"Edema": "A large heart."}}',
            "label 'Edema' is a text of 14 char",
        ),
        (b'{"id": "b", "file": "x", "labels": {"Edema": 1, "edema": 0}}', "label 'edema' contradicts 'Edema'"),
        (b'{"id": "b", "file": "x", "labels": {"Edema": []}}', "label 'Edema' is \\[\\]"),
    ],
)
def test_a_bad_line_is_an_error_with_its_number(tmp_path, line, message):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"id": "a", "file": "a.png", "split": null, "labels": null}\n' + line + b"\n")
    with pytest.raises(DataError, match=message):
        list(read_manifest(path))


def test_a_manifest_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="none.jsonl: cannot be read"):
        list(read_manifest(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(("stated", "label"), [("1.0", 1), ('"1"', 1), ("true", 1), ("-1.0", -1), ("NaN", None)])
def test_what_pandas_writes_is_read(tmp_path, stated, label):
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"id": 17, "file": "a.png", "patient": 3.0, "study": "007", "labels": {{"edema": {stated}}}}}\n')
    (row,) = read_manifest(path)
    assert (row.id, row.patient, row.study, row.labels) == ("17", "3", "007", {"Edema": label})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_and_line_breaks_inside_texts(tmp_path, encoding):
    path = tmp_path / "m.jsonl"
    texts = ["Größe.\u2028Normal.", "a\u0085b", "c\u2029d", "e\x7ff"]
    rows = [{"id": str(number), "file": "a.png", "findings": text} for number, text in enumerate(texts)]
    path.write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding))
    assert [row.findings for row in read_manifest(path)] == texts
