"""``chexmix data import`` and ``chexmix data check``: files, streams, exit codes, what people see."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import typer
from dataset_trees import draw_image, write_csv

from chexmix_cli.app import app
from chexmix_cli.commands.data.tables import check_tables, import_tables
from chexmix_cli.core.data.adapters.registry import KINDS
from chexmix_cli.core.data.manifest import read_manifest

LUNGS = "The lungs are clear and the heart is of normal size, without effusion or pneumothorax, as in patient"


@pytest.fixture
def dataset(tmp_path):
    """A folder of eight films of four patients with a table; the ninth row has no image, the tenth no sound label."""
    rows = []
    for number in range(8):
        draw_image(tmp_path / "set" / f"{number}.png", number, side=96)
        words = " ".join(str(value) for value in range(number * 100, number * 100 + 12))
        rows.append((f"{number}.png", f"p{number // 2}", "PA", number % 3 - 1, f"{LUNGS} {words}."))
    rows += [("8.png", "p8", "PA", "", ""), ("0.png", "p0", "PA", "0.5", "")]
    write_csv(tmp_path / "set" / "films.csv", ["file", "patient", "view", "Edema", "findings"], rows)
    return tmp_path / "set"


def test_a_data_set_becomes_a_manifest_that_is_sound(call, dataset, tmp_path):
    manifest, rejects = tmp_path / "m.jsonl", tmp_path / "rejects.jsonl"
    result = call("data", "import", "folder", dataset, "-o", manifest, "--quarantine", rejects)
    assert result.code == 3
    (record,) = result.records
    assert (record["id"], record["status"], record["kind"], record["rows"]) == (str(manifest), "ok", "folder", 8)
    assert {code: found["count"] for code, found in record["rejected"].items()} == {"NOT_FOUND": 1, "BAD_RECORD": 1}
    assert record["views"] == {"PA": 8}
    errors = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(error["id"], error["status"], error["error"]["code"]) for error in errors] == [
        ("8.png", "error", "NOT_FOUND"),
        ("0.png", "error", "BAD_RECORD"),
    ]
    rows = list(read_manifest(manifest))
    assert [row.id for row in rows] == [f"{number}.png" for number in range(8)]
    assert [row.labels["Edema"] for row in rows] == [-1, 0, 1, -1, 0, 1, -1, 0]
    assert json.loads(manifest.read_text().splitlines()[0])["file"] == "set/0.png"

    result = call("data", "check", manifest)
    assert (result.code, result.stderr) == (0, "")
    (record,) = result.records
    assert record["problems"] == []
    assert (record["rows"], record["patients"], record["images"]["readable"]) == (8, 4, 8)


def test_without_an_output_the_rows_go_to_stdout(call, dataset):
    for output in ([], ["-o", "-"]):
        result = call("data", "import", "folder", dataset, *output)
        assert result.code == 3
        assert [record["id"] for record in result.records] == [f"{number}.png" for number in range(8)]
        assert result.records[0]["file"] == str(dataset / "0.png")
        assert result.stderr == "8 images written; 2 left out:\nBAD_RECORD\t1\nNOT_FOUND\t1\n"
    assert call("data", "import", "folder", dataset, "--quiet").stderr == ""


def test_the_rows_are_inputs_of_other_commands(call, dataset, debug_weights):
    """Manifest lines pipe: ``chexmix data import ... | chexmix tokenize -``."""
    lines = call("data", "import", "folder", dataset, "--quiet").stdout.splitlines(keepends=True)[:2]
    result = call("tokenize", "-", "--weights", debug_weights, stdin="".join(lines))
    assert [(record["id"], record["status"]) for record in result.records] == [("0.png", "ok"), ("1.png", "ok")]


def test_check_exits_3_when_there_are_problems(call, dataset, tmp_path):
    manifest = tmp_path / "m.jsonl"
    call("data", "import", "folder", dataset, "-o", manifest)
    (dataset / "3.png").unlink()
    result = call("data", "check", manifest)
    assert result.code == 3
    (problem,) = result.records[0]["problems"]
    assert problem["code"] == "NO_IMAGE"
    assert problem["examples"] == [{"code": "NOT_FOUND", "count": 1, "ids": ["3.png"]}]
    assert call("data", "check", manifest).stdout == result.stdout
    assert call("data", "check", manifest, "--set", "images.read=exists").code == 3


def test_nothing_found_leaves_no_manifest_and_exits_1(call, dataset, tmp_path):
    manifest, rejects = tmp_path / "m.jsonl", tmp_path / "rejects.jsonl"
    for path in dataset.glob("*.png"):
        path.unlink()
    result = call("data", "import", "folder", dataset, "-o", manifest, "--quarantine", rejects)
    assert (result.code, result.stdout) == (1, "")
    assert "(BAD_RECORD: 1, NOT_FOUND: 9); expected files such as" in result.stderr
    assert "hint: --set images=DIR" in result.stderr
    assert not manifest.exists()
    assert len(rejects.read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import", "mimc", "."], 2, "unknown kind of data set 'mimc'; expected mimic-cxr,"),
        (["import", "chexpert", ".", "--set", "reports=x"], 2, "reports: unknown setting"),
        (["import", "chexpert", ".", "--set", "split.val=2"], 2, "split.val: is 2"),
        (["import", "chexpert"], 2, "missing argument"),
        (["import", "chexpert", "/nowhere"], 1, "cannot be listed (No such file or directory)"),
        (["check", "/nowhere.jsonl"], 1, "nowhere.jsonl: cannot be read"),
        (["check", "x", "--set", "images.near_bits=200"], 2, "images.near_bits: is 200; expected 0..127"),
        (["check", "x", "--set", "reports.near_share=0"], 2, "reports.near_share: is 0"),
        (["check", "x", "--set", "images.red=pixels"], 2, "did you mean 'read'?"),
    ],
)
def test_wrong_usage_and_missing_files(call, arguments, code, message):
    result = call("data", *arguments)
    assert (result.code, result.stdout) == (code, "")
    assert message in result.stderr


def test_an_output_that_cannot_be_written_exits_4(call, dataset):
    result = call("data", "import", "folder", dataset, "-o", dataset / "films.csv" / "m.jsonl")
    assert (result.code, result.stdout) == (4, "")
    assert "manifest cannot be written" in result.stderr
    result = call("data", "import", "folder", dataset, "--quarantine", dataset / "films.csv" / "r.jsonl")
    assert (result.code, result.stdout) == (4, "")


def test_settings_are_those_of_the_kind(call):
    shown = json.loads(call("data", "import", "mimic-cxr", ".", "--set", "labels=negbio", "--show-config").stdout)
    assert shown["settings"]["labels"] == "negbio"
    assert shown["set_by"] == {"labels": "--set"}
    assert "reports" not in json.loads(call("data", "import", "chexpert", ".", "--show-config").stdout)["settings"]
    assert json.loads(call("data", "check", "x", "--show-config").stdout)["settings"]["images"]["near_bits"] == 24


def test_flags_are_frozen_and_the_help_names_every_kind():
    group = typer.main.get_command(app)
    commands = group.get_command(typer.Context(group), "data").commands
    common = {"--config", "--set", "--show-config", "--json", "--quiet", "-q", "--verbose", "-v"}
    flags = {
        name: {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")} - {"--help"}
        for name, command in commands.items()
    }
    assert flags["import"] == common | {"--out", "-o", "--quarantine"}
    assert flags["check"] == common
    (kind,) = (parameter for parameter in commands["import"].params if parameter.name == "kind")
    assert set(re.split(r", | or ", kind.help.rstrip("."))) == set(KINDS)


def test_no_patient_of_a_dicom_header_comes_out(call, make_dicom, planted, tmp_path):
    make_dicom(tmp_path / "a.dcm", view="AP")
    write_csv(tmp_path / "t.csv", ["file"], [("a.dcm",), ("b.dcm",)])
    manifest = tmp_path / "out" / "m.jsonl"
    results = [
        call("data", "import", "folder", tmp_path, "-o", manifest, "-v"),
        call("data", "check", manifest, "-v", "--set", "images.workers=1"),
    ]
    assert [row.view for row in read_manifest(manifest)] == ["AP"]
    assert [result.code for result in results] == [3, 0]
    written = manifest.read_text() + "".join(result.stdout + result.stderr for result in results)
    assert not [text for text in planted if text in written]


def test_tables_for_people(call, dataset, tmp_path):
    manifest = tmp_path / "m.jsonl"
    imported = call("data", "import", "folder", dataset, "-o", manifest).records[0]
    text = import_tables(imported)
    assert f"{manifest}: 8 images of folder" in text
    assert re.search(r"^NOT_FOUND +1 +8\.png$", text, re.MULTILINE)
    assert re.search(r"^view sources +column view +8$", text, re.MULTILINE)
    row = json.loads(manifest.read_text().splitlines()[0]) | {"id": "[bold]x", "patient": "p3", "split": "val"}
    manifest.write_text(manifest.read_text() + json.dumps(row) + "\n")
    checked = call("data", "check", manifest).records[0]
    assert {problem["code"] for problem in checked["problems"]} >= {"DUPLICATE_IMAGES"}
    text = check_tables(checked)
    assert "9 images, 4 patients; " in text
    assert '["0.png", "[bold]x"]' in text  # an id is shown as it is, not as markup
    assert re.search(r"^Edema +2 +3 +4 +0$", text, re.MULTILINE)
    assert re.search(r"^word for word an earlier one +1$", text, re.MULTILINE)


def test_a_process_of_its_own_reads_images_in_others(dataset, tmp_path, repository, call):
    """Workers are spawned: they must find their way through the real entry point, and change nothing."""
    manifest = tmp_path / "m.jsonl"
    for number in range(8, 40):
        draw_image(dataset / f"{number}.png", number, side=96)
    write_csv(dataset / "films.csv", ["file"], [(f"{number}.png",) for number in range(40)])
    call("data", "import", "folder", dataset, "-o", manifest)
    command = [sys.executable, "-m", "chexmix_cli", "data", "check", str(manifest), "--set", "images.workers=2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == call("data", "check", manifest, "--set", "images.workers=1").stdout


def test_a_tree_as_vindr_publishes_it(call, tmp_path, make_dicom):
    """Headers keep what pixels need; one file of the tree is no film of a chest, one is cut."""
    import pydicom

    kept = ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")
    for number in range(6):
        path = tmp_path / "train" / f"{number:032}.dicom"
        path.parent.mkdir(exist_ok=True)
        film = pydicom.dcmread(make_dicom(path, number))
        for element in list(film):
            if element.keyword not in (*kept, "PixelRepresentation", "PixelData"):
                del film[element.tag]
        if number == 4:
            film.Modality = "CT"
        film.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-4000])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text("image_id,class_name\n")
    found = call("data", "check", tmp_path, "--json")
    assert found.code == 3
    (record,) = found.records
    (problem,) = record["problems"]
    assert (record["rows"], record["images"]["readable"], problem["code"], problem["count"]) == (4, 4, "NO_IMAGE", 2)
    assert [(one["code"], one["count"]) for one in problem["examples"]] == [("NOT_RADIOGRAPH", 1), ("SHORT_PIXELS", 1)]
    assert record["images"]["notes"]["the header states no modality; its class is that of a radiograph"] == 4
    (tmp_path / "m.jsonl").write_text(
        "".join(f'{{"id": "{n}", "file": "train/{n:032}.dicom", "split": "train"}}\n' for n in range(6))
    )
    (record,) = call("data", "check", tmp_path / "m.jsonl", "--json").records
    assert [problem["count"] for problem in record["problems"]] == [2]
