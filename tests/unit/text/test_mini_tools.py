"""The tools that make the embedded model's films, manifest, text tokenizer and digests."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.manifest import read_manifest
from chexmix_cli.core.text.labelling.labeller import READABLE, label_report
from chexmix_cli.core.weights.hub.registry import EMBEDDED, registry

ENTRIES = [
    {"dataset": "kermany", "labels": ["Pneumonia", "Viral"], "view": "AP", "age": None, "split": "train"},
    {"dataset": "kermany", "labels": ["No Finding"], "view": "AP", "age": None, "split": "val"},
    {"dataset": "nih14", "labels": ["Effusion", "Mass"], "view": "PA", "age": "58", "split": "train"},
    {"dataset": "hannover", "labels": ["COVID-19"], "view": None, "age": None, "split": "train"},
]


@pytest.fixture
def tool(repository, monkeypatch):
    def load(name):
        spec = importlib.util.spec_from_file_location(name, repository / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


def write_index(folder, entries=ENTRIES):
    rows = [{"file": f"images/{number}.jpg", "patient": f"p{number}", **entry} for number, entry in enumerate(entries)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_labels_are_stated_only_where_the_source_looks(tool, tmp_path):
    output = tmp_path / "manifest.jsonl"
    assert tool("make_mini_manifest").main([str(write_index(tmp_path / "src")), "-o", str(output)]) == 0
    rows = {row.id: row for row in read_manifest(output)}
    child, normal, adult, covid = (rows[str(number)] for number in range(4))
    assert {k: v for k, v in child.labels.items() if v is not None} == {
        "No Finding": 0, "Pneumonia": 1, "Viral": 1, "Bacterial": 0,
    }  # fmt: skip
    assert {k: v for k, v in normal.labels.items() if v is not None} == {
        "No Finding": 1, "Pneumonia": 0, "Viral": 0, "Bacterial": 0,
    }  # fmt: skip
    assert Counter(adult.labels.values()) == {1: 2, 0: 13, None: 4}
    assert {k: v for k, v in covid.labels.items() if v is not None} == {"COVID-19": 1}
    assert adult.patient == "nih14:p2"
    assert adult.split == "train"
    assert child.report is not None
    assert "iral" in child.report


def test_files_are_relative_inside_the_manifests_folder_and_absolute_elsewhere(tool, tmp_path):
    source = write_index(tmp_path / "src")
    for output, expected in (
        (tmp_path / "manifest.jsonl", "src/images/0.jpg"),
        (tmp_path / "other" / "manifest.jsonl", str(source / "images/0.jpg")),
    ):
        tool("make_mini_manifest").main([str(source / "index.jsonl"), "-o", str(output)])
        assert json.loads(output.read_text().splitlines()[0])["file"] == expected
        assert next(read_manifest(output)).file == source / "images/0.jpg"


def both_sources(folder, labels, expert):
    """Write one NIH film, which experts have read, and one film that radiologists called normal."""
    entry = {"dataset": "nih14", "labels": labels, "view": "PA", "age": "58", "split": "train"}
    radiographs = write_index(folder / "radiographs", [entry])
    normal = {"dataset": "rsna_normal", "labels": {"No Finding": 1}, "view": None, "split": "val", "patient": None}
    write_index(folder / "adult_normals", [{**normal, "file": "images/rsna_normal_7.jpg"}])
    (radiographs / "expert_labels.jsonl").write_text(json.dumps({"file": "images/0.jpg", **expert}) + "\n")
    return folder


GOOGLE = {"Fracture": "NO", "Pneumothorax": "NO", "Airspace opacity": "NO", "Nodule or mass": "NO", "Set Id": "val"}
LEFT_BASE = [600.0, 700.0, 200.0, 200.0]


@pytest.mark.parametrize(
    ("labels", "expert", "present", "absent", "unknown"),
    [
        (["Pneumonia", "Mass"], {"rsna_class": "Normal"}, {"No Finding"}, {"Pneumonia", "Mass", "Lung Opacity"}, set()),
        (
            ["Pneumonia", "Edema"],
            {"rsna_class": "Lung Opacity", "opacity_boxes_xywh_1024": [LEFT_BASE]},
            {"Lung Opacity", "Pneumonia", "Edema"},
            {"No Finding", "Mass"},
            set(),
        ),
        (["No Finding"], {"rsna_class": "Lung Opacity"}, {"Lung Opacity"}, {"No Finding"}, set()),
        (
            ["Pneumonia", "Infiltration", "Effusion"],
            {"rsna_class": "No Lung Opacity / Not Normal", "nih_bbox_xywh_1024": [["Pneumonia", *LEFT_BASE]]},
            {"Effusion"},
            {"Lung Opacity", "Consolidation", "No Finding"},
            {"Pneumonia", "Infiltration"},
        ),
        # RSNA's radiologists come before Google's readers.
        (
            ["Consolidation"],
            {"rsna_class": "No Lung Opacity / Not Normal", "google2019": {**GOOGLE, "Airspace opacity": "YES"}},
            set(),
            {"Lung Opacity", "No Finding", "Nodule"},
            {"Consolidation"},
        ),
        (["Pneumonia"], {"google2019": GOOGLE}, set(), {"Lung Opacity", "Nodule"}, {"Pneumonia", "No Finding"}),
        (["No Finding"], {"google2019": GOOGLE}, {"No Finding"}, {"Lung Opacity", "Pneumothorax"}, set()),
        (
            ["Mass", "Pneumothorax"],
            {"google2019": {**GOOGLE, "Nodule or mass": "YES"}},
            {"Mass"},
            {"Pneumothorax", "Nodule"},
            set(),
        ),
        (
            ["No Finding"],
            {"google2019": {**GOOGLE, "Nodule or mass": "YES", "Pneumothorax": "YES"}},
            {"Pneumothorax"},
            {"No Finding", "Lung Opacity"},
            {"Nodule", "Mass"},
        ),
        (["No Finding"], {"google2019": {**GOOGLE, "Fracture": "YES"}}, set(), {"No Finding", "Mass"}, set()),
        (
            ["Mass"],
            {"nih_bbox_xywh_1024": [["Mass", "600.5", "700.0", "200", "200"]]},
            {"Mass"},
            {"Pneumonia"},
            {"Lung Opacity"},
        ),
    ],
)
def test_experts_win_over_text_mined_labels(tool, tmp_path, labels, expert, present, absent, unknown):
    output = tmp_path / "manifest.jsonl"
    source = both_sources(tmp_path / "data", labels, expert)
    assert tool("make_mini_manifest").main([str(source), "-o", str(output)]) == 0
    film, normal = read_manifest(output)
    assert {name for name, value in film.labels.items() if value == 1} == present
    assert absent <= {name for name, value in film.labels.items() if value == 0}
    assert unknown <= {name for name, value in film.labels.items() if value is None}
    read = label_report(film.report, [name for name in film.labels if name in READABLE])
    stated = {name for name, value in read.items() if value == 1}
    assert stated - {"No Finding", "Lung Opacity"} == present - {"No Finding", "Lung Opacity"}, film.report
    assert all(film.labels[name] in (read[name] == 1, None) for name in ("No Finding", "Lung Opacity")), film.report
    boxes = ("opacity_boxes_xywh_1024" in expert) or ("Mass" in present and "nih_bbox_xywh_1024" in expert)
    assert ("left lower" in film.findings) == boxes, film.findings
    assert film.notes == normal.notes == {"labels_source": "radiologists"}
    assert (normal.patient, normal.split, normal.view) == ("rsna_normal:rsna_normal_7", "val", None)
    assert normal.labels["No Finding"] == 1
    assert normal.labels["Lung Opacity"] == normal.labels["Hernia"] == 0
    assert normal.labels["COVID-19"] is None


def test_a_finding_with_a_box_across_the_midline_has_no_place(tool):
    places = tool("make_mini_manifest").expert_places
    labels, across = {"Lung Opacity": 1, "Effusion": 1, "Infiltration": 0}, [300.0, 700.0, 500.0, 200.0]
    assert places(labels, {"opacity_boxes_xywh_1024": [LEFT_BASE, across]}) == {}
    drawn = {"opacity_boxes_xywh_1024": [LEFT_BASE], "nih_bbox_xywh_1024": [["Infiltrate", *LEFT_BASE]]}
    assert places(labels, drawn) == {"Lung Opacity": [("left", "lower")]}
    assert places({**labels, "Infiltration": 1}, drawn)["Infiltration"] == [("left", "lower")]


def test_other_copies_of_the_films_can_be_named(tool, tmp_path):
    output, films = tmp_path / "manifest.jsonl", tmp_path / "films"
    source = both_sources(tmp_path / "data", ["Mass"], {"rsna_class": "Normal"})
    assert tool("make_mini_manifest").main([str(source), "-o", str(output), "--films", str(films)]) == 0
    assert [row.file for row in read_manifest(output)] == [films / "0.jpg", films / "rsna_normal_7.jpg"]


def test_every_report_of_the_real_films_is_read_as_its_labels(tool, shared, tmp_path):
    output = tmp_path / "manifest.jsonl"
    assert tool("make_mini_manifest").main([str(shared / "data"), "-o", str(output)]) == 0
    rows = [row for row in read_manifest(output) if row.patient.startswith("nih14")]
    opacities = 0
    for row in rows:
        known = {name: value for name, value in row.labels.items() if name in READABLE and value is not None}
        read = label_report(row.report, known)
        assert {name for name, value in read.items() if value == 1} == {n for n, v in known.items() if v == 1}, row.id
        opacities += known.get("Lung Opacity") == 1
    assert opacities > 100


def test_a_report_depends_on_seed_and_file_alone(tool, tmp_path):
    def reports(entries, seed):
        output = tmp_path / "manifest.jsonl"
        tool("make_mini_manifest").main(
            [str(write_index(tmp_path / "src", entries)), "-o", str(output), "--seed", seed]
        )
        return [row.report for row in read_manifest(output)]

    assert reports(ENTRIES, "1") == reports(ENTRIES, "1")
    assert reports(ENTRIES, "1")[:2] == reports(ENTRIES[:2], "1")
    assert reports(ENTRIES, "1") != reports(ENTRIES, "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dataset": "unknown"}, "images/0.jpg: data set 'unknown'"), ({"labels": ["Effusion"]}, "'Effusion' is not")],
)
def test_what_the_templates_cannot_say_stops_the_tool(tool, tmp_path, capsys, change, message):
    output = tmp_path / "manifest.jsonl"
    source = write_index(tmp_path / "src", [{**ENTRIES[0], **change}])
    assert tool("make_mini_manifest").main([str(source), "-o", str(output)]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_missing_index_is_an_error(tool, tmp_path, capsys):
    assert tool("make_mini_manifest").main([str(tmp_path), "-o", str(tmp_path / "m.jsonl")]) == 1
    assert "index.jsonl" in capsys.readouterr().err


def test_the_tokenizer_tool_trains_on_train_rows_only(tool, tmp_path, capsys):
    source, manifest = write_index(tmp_path / "src"), tmp_path / "manifest.jsonl"
    tool("make_mini_manifest").main([str(source), "-o", str(manifest)])
    train, output = tool("train_mini_tokenizer"), tmp_path / "out" / "tokenizer.json"
    assert train.main([str(manifest), "-o", str(output), "--num-text", "300"]) == 0
    assert "300 ids from 3 reports, 0 unused" in capsys.readouterr().err
    assert train.main([str(manifest), "-o", str(output), "--num-text", "100"]) == 1
    assert "num_text is 100" in capsys.readouterr().err
    manifest.write_text(manifest.read_text().replace('"train"', '"val"'))
    assert train.main([str(manifest), "-o", str(output)]) == 1
    assert "no train row has a report" in capsys.readouterr().err


def test_the_shipped_tokenizer_comes_out_of_the_commands_in_the_docs(tool, tmp_path, shared, repository):
    manifest, output = tmp_path / "manifest.jsonl", tmp_path / "tokenizer.json"
    # It was made of text-mined labels: the index by itself has no others.
    tool("make_mini_manifest").main([str(shared / "data" / "radiographs" / "index.jsonl"), "-o", str(manifest)])
    tool("train_mini_tokenizer").main([str(manifest), "-o", str(output)])
    assert output.read_bytes() == (repository / "chexmix_cli/assets/chexmix-mini/tokenizer.json").read_bytes()


def test_films_of_every_source_are_written_alike_and_only_training_films_are_copied(tool, tmp_path):
    rng = np.random.default_rng(0)
    for folder, entries in (("radiographs", ENTRIES), ("adult_normals", ())):
        write_index(tmp_path / folder, entries)
        (tmp_path / folder / "images").mkdir()
    for number, size in enumerate(((224, 224), (224, 224), (512, 512), (300, 256))):
        picture = Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8))
        picture.save(tmp_path / "radiographs" / "images" / f"{number}.jpg")
    films = tool("make_mini_films")
    arguments = [str(tmp_path), "--copies", "nih14=2", "--copies", "kermany=1"]
    for name in ("once", "again"):
        assert films.main([*arguments, "-o", str(tmp_path / name)]) == 0
    written = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert written == ["0.1.jpg", "0.jpg", "1.jpg", "2.1.jpg", "2.2.jpg", "2.jpg", "3.jpg"]  # 1 is of val
    for name in written:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        with Image.open(tmp_path / "once" / name) as film:
            assert (film.size, film.mode) == ((224, 224), "L")
    output = tmp_path / "manifest.jsonl"
    source = str(tmp_path / "radiographs")
    assert tool("make_mini_manifest").main([source, "-o", str(output), "--films", str(tmp_path / "once")]) == 0
    rows = {row.id: row for row in read_manifest(output)}
    assert sorted(rows) == sorted(name.removesuffix(".jpg") for name in written)
    assert rows["2"].labels == rows["2.1"].labels
    assert rows["2"].patient == rows["2.1"].patient


def test_a_changed_copy_is_never_mirrored(tool):
    """The brighter half of a film stays on its side in every copy."""
    film = np.zeros((64, 64), np.float32)
    film[:, :24] = 200
    changed = tool("make_mini_films").changed
    for seed in range(50):
        copy = changed(film, random.Random(seed))
        assert copy[:, :32].mean() > copy[:, 32:].mean() + 50


def test_the_digests_of_the_registry_are_renewed(tool):
    renew = tool("renew_sha256")
    text = renew.REGISTRY.read_text()
    without = re.sub(r'"[0-9a-f]{64}"', '""', text)
    assert without != text
    assert renew.renewed(without, registry()[EMBEDDED]) == text
