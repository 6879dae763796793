"""Public bug reports of this field, rebuilt: studies that were lost or merged, tables and lines that were misread."""

from __future__ import annotations

import json
import os
import shutil

import pytest


@pytest.fixture
def case(shared, tmp_path, monkeypatch):
    """Return a function that copies a case and goes into it; links are made of the texts that stand for them."""

    def enter(name: str):
        origin = shared / "cases" / name
        if not origin.is_dir():
            pytest.skip(f"no cases at {origin}")
        folder = tmp_path / origin.name
        shutil.copytree(origin, folder, copy_function=shutil.copyfile)
        for path in sorted(folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        monkeypatch.chdir(folder)
        return folder

    return enter


@pytest.fixture
def tokenize(call, debug_weights):
    """Return a function that runs ``chexmix tokenize --no-codes``."""

    def run(*inputs, **options):
        return call("tokenize", *inputs, "--no-codes", "--weights", debug_weights, **options)

    return run


@pytest.fixture
def evaluate_report(call):
    """Return a function that compares reports, quickly."""

    def run(predictions, references, **options):
        few = ["--set", "bootstrap.resamples=0", "--set", "external.run=false"]
        return call("evaluate", "report", predictions, "--references", references, *few, "--json", **options)

    return run


def result_of(run):
    return json.loads(run.stdout)


def test_vindr_stripped_header(case, call, tokenize):
    case("inputs/01-vindr-stripped-header")
    for folder in ("train", "train_with_modality"):
        found = tokenize(folder)
        assert (found.code, len({record["id"] for record in found.records})) == (0, 3)
        assert not any("other_images" in record for record in found.records)
    assert [record["notes"][0] for record in tokenize("train").records] == [
        "the header states no modality; its class is that of a radiograph"
    ] * 3
    for place in ("train", "manifest.jsonl"):
        checked = call("data", "check", place, "--json").records[0]
        assert (checked["problems"], checked["rows"], checked["images"]["readable"]) == ([], 3, 3)
        assert checked["images"]["notes"]["the header states no modality; its class is that of a radiograph"] == 3


@pytest.mark.parametrize("folder", ["own_uid", "dummy_uid", "no_uid"])
def test_three_patients_are_three_records(case, tokenize, folder):
    case("inputs/02-three-patients-one-record")
    found = tokenize(folder)
    assert (found.code, len({record["id"] for record in found.records})) == (0, 3)
    assert not any("other_images" in record for record in found.records)
    assert ("notes" in found.records[0]) == (folder == "dummy_uid")


@pytest.mark.parametrize("predictions", ["pred_2028.jsonl", "pred_0085.jsonl", "pred_2028.csv", "-"])
def test_unicode_line_breaks_are_no_line_ends(case, evaluate_report, predictions):
    folder = case("inputs/14-jsonl-unicode-line-breaks")
    stdin = (folder / "pred_2028.jsonl").read_text(encoding="utf-8")
    found = evaluate_report(predictions, "refs_2028.jsonl", stdin=stdin)
    assert (found.code, result_of(found).get("failed", [])) == (0, [])


@pytest.mark.parametrize("name", ["ff.csv", "ls.jsonl"])
def test_separators_inside_reports(case, evaluate_report, name):
    case("models/01-line-separators")
    for predictions, references in ((name, "nl.csv"), ("nl.csv", name)):
        found = evaluate_report(predictions, references)
        assert (found.code, result_of(found).get("failed", [])) == (0, [])
        assert len(result_of(found)["items"]["ids"] if "items" in result_of(found) else [1, 2, 3]) == 3


def test_an_open_quote_takes_in_no_rows(case, call, evaluate_report):
    case("inputs/15-csv-open-quote")
    for folder in ("set2", "set3"):
        found = call("data", "import", "folder", folder, "-o", "new.jsonl", "--json")
        assert (found.code, os.path.exists("new.jsonl")) == (1, False)
        assert ".csv:2: a quote opens in this row" in found.stderr
    found = call("data", "import", "folder", "set", "-o", "new.jsonl", "--json")
    assert (found.code, found.records[0]["rows"], found.records[0]["rejected"]["BAD_RECORD"]["count"]) == (3, 2, 1)
    refused = evaluate_report("p.csv", "p.csv")
    assert (refused.code, "p.csv:2: a quote opens" in refused.stderr) == (1, True)


@pytest.mark.parametrize("place", ["index.dcm", "alone", "alone.zip", "alone/DICOMDIR", "-"])
def test_a_dicomdir_without_its_films_is_never_silent(case, tokenize, place):
    case("inputs/16-dicomdir-without-films")
    found = tokenize(place, stdin="index.dcm\n")
    assert found.code == 1
    assert {record["error"]["code"] for record in found.records} == {"NOT_FOUND"}


@pytest.mark.parametrize("place", ["cd", "cd/DICOMDIR", "cd/DICOMDIR.dcm"])
def test_a_dicomdir_is_known_by_what_it_holds(case, tokenize, place):
    case("inputs/16-dicomdir-without-films")
    found = tokenize(place)
    assert (found.code, len(found.records)) == (0, 2)


@pytest.mark.parametrize("is_text", [False, True], ids=["links", "texts in place of links"])
def test_linked_studies_are_found_or_named(case, tokenize, is_text):
    folder = case("inputs/18-linked-folders")
    if not is_text:
        for name in ("cohort/st1", "cohort/st2", "mixed/st2", "annex/IM0002", "annex/IM0003.dcm"):
            target = (folder / name).read_text().strip()
            (folder / name).unlink()
            (folder / name).symlink_to(target)
    places = ("cohort", "mixed", "annex")
    found = {place: sorted(record["status"] for record in tokenize(place).records) for place in places}
    linked = "error" if is_text else "ok"
    assert found == {"cohort": [linked] * 2, "mixed": sorted(["ok", linked]), "annex": ["error", "error", "ok"]}


def test_a_byte_order_mark_is_no_part_of_a_manifest(case, call, tokenize):
    folder = case("inputs/20-manifest-with-bom")
    assert call("data", "check", "manifest.jsonl", "--json").records[0]["rows"] == 2
    assert tokenize("-", stdin=(folder / "manifest.jsonl").read_bytes()).code == 0


def test_what_pandas_writes_is_a_manifest(case, call):
    case("inputs/21-pandas-writes-1.0")
    labels = call("data", "check", "manifest.jsonl", "--json").records[0]["labels"]
    assert labels == {"Pneumonia": {"1": 1, "0": 0, "-1": 0, "null": 1}}
    assert call("data", "check", "int_ids.jsonl", "--json").records[0]["rows"] == 2


@pytest.mark.parametrize("name", ["manifest.json", "pretty.json", "table.csv"])
def test_what_is_no_list_of_records_echoes_nothing(case, tokenize, name):
    folder = case("inputs/22-json-array-on-stdin-echoes-reports")
    found = tokenize("-", "--quarantine", "refused.jsonl", stdin=(folder / name).read_text())
    assert found.code == 1
    assert {record["error"]["code"] for record in found.records} == {"BAD_RECORD"}
    assert [record["id"] for record in found.records] == [f"line {n + 1}" for n in range(len(found.records))]
    told = found.stdout + found.stderr + (folder / "refused.jsonl").read_text()
    assert not any(secret in told for secret in ("Roe", "ROE", "Effusion", "ormal"))


def test_utf_16_is_read(case, call, tokenize):
    folder = case("inputs/22-json-array-on-stdin-echoes-reports")
    assert call("data", "check", "utf16.jsonl", "--json").records[0]["rows"] == 2
    found = tokenize("-", stdin=(folder / "utf16.jsonl").read_bytes())
    assert (found.code, [record["id"] for record in found.records]) == (0, ["a", "b"])


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_the_index_of_pandas_is_no_column(case, evaluate_report, name):
    case("models/09-csv-index-column")
    for predictions, references in ((name, "f.jsonl"), ("f.jsonl", name)):
        found = evaluate_report(predictions, references)
        assert (found.code, result_of(found).get("failed", [])) == (0, [])


NAME, SENTENCE = "Zephyranthes", "A spiculated mass abuts the left hilum."
ROWS = [{"id": "a", "file": "none.png", "patient": NAME, "findings": SENTENCE}]
INPUTS = {
    "array": json.dumps(ROWS),
    "pretty array": json.dumps(ROWS, indent=1),
    "pretty object": json.dumps(ROWS[0], indent=1),
    "csv": f"file,patient,report\nnone.png,{NAME},{SENTENCE}\n",
    "csv of several lines": f'file,patient,report\nnone.png,{NAME},"Clear.\n{SENTENCE}"\n',
    "tsv": f"file\treport\nnone.png\t{SENTENCE}\n",
    "report": f"{NAME}\n{SENTENCE}\n",
    "missing path": f"/nowhere/{NAME}/{SENTENCE}/1.dcm\n",
    "cut": json.dumps(ROWS[0])[:-1] + "\n",
    "no id": json.dumps({"patient": NAME, "findings": SENTENCE}) + "\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("kind", INPUTS)
def test_neither_names_nor_reports_come_back(tmp_path, call, debug_weights, monkeypatch, kind, encoding):
    """Whatever is given by mistake, on stdin or as a file, to commands of every kind."""
    monkeypatch.chdir(tmp_path)
    raw = INPUTS[kind].encode(encoding)
    (tmp_path / "in.jsonl").write_bytes(raw)
    (tmp_path / "in.csv").write_bytes(raw)
    (tmp_path / "m.jsonl").write_text('{"id": "z", "file": "z.png", "split": "test", "labels": {"Mass": 1}}\n')
    (tmp_path / "refs.jsonl").write_text('{"id": "z", "report": "Clear."}\n')
    commands = [
        ("tokenize", "-", "--weights", debug_weights),
        ("tokenize", "-", "--weights", debug_weights, "-o", "shards"),
        ("tokenize", "in.jsonl", "--weights", debug_weights),
        ("tokenize", INPUTS[kind].split("\n")[0], "--weights", debug_weights),
        ("retrieve", "index", "in.jsonl", "-o", "index", "--weights", debug_weights),
        ("data", "check", "in.jsonl"),
        ("data", "import", "folder", "."),
        ("evaluate", "classification", "-", "--manifest", "m.jsonl"),
        ("evaluate", "classification", "in.jsonl", "--manifest", "m.jsonl"),
        ("evaluate", "report", "-", "--references", "refs.jsonl"),
        ("evaluate", "report", "in.jsonl", "--references", "refs.jsonl"),
        ("evaluate", "report", "in.csv", "--references", "refs.jsonl"),
    ]
    for command in commands:
        result = call(*command, stdin=raw)
        assert result.code != 0, command
        for secret in (NAME, "spiculated"):
            assert secret not in result.stdout + result.stderr, command
