"""A CSV of one's own: usual names, names by settings, and paths."""

from __future__ import annotations

import pytest
from dataset_trees import draw_image, write_csv

from chexmix_cli.core.data.tables import read_columns
from chexmix_cli.core.errors import DataError, SettingsError


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(["a.png", "sub/b.png", "c.png", "d.png"]):
        draw_image(tmp_path / name, number)
    return tmp_path


def test_usual_names_need_no_settings(root, do_import):
    write_csv(
        root / "films.csv",
        ["Path", "Patient_ID", "View", "Split", "Findings", "Impression", "Edema", "Effusion", "Other"],
        [
            ("a.png", "p1", "pa", "training", "Clear\nlungs.", "Normal.", "1", "", "7"),
            ("sub\\b.png", "p2", "Lateral", "dev", "", "None", "-1.0", "0", "7"),
            ("c.png", "p3", "", "", "nan", "", "", "", ""),
            ("d.png", "p3", "PA", "tset", "", "", "", "", ""),
        ],
    )
    found = do_import("folder", root)
    a, b, c = (found[name] for name in ("a.png", "sub/b.png", "c.png"))
    assert (a.patient, a.view, a.split, a.findings, a.impression) == ("p1", "PA", "train", "Clear lungs.", "Normal.")
    assert a.labels == {"Edema": 1, "Effusion": None}
    assert a.notes["view_source"] == "column View"
    assert (b.view, b.split, b.report, b.labels) == ("LATERAL", "val", None, {"Edema": -1, "Effusion": 0})
    assert (c.view, c.split) == (None, None)  # a blank split is none; it is not drawn
    assert found.rejected["d.png"].message.startswith("films.csv:6: split is 'tset'")


def test_columns_by_settings(root, do_import):
    write_csv(
        root / "films.csv",
        ["img", "who", "text", "file", "sick"],
        [("a.png", "p1", "FINDINGS: Clear.", "b", 1), ("c.png", "p1", "All is well.", "b", 0)],
    )
    columns = {"file": "img", "patient": "who", "report": "text", "labels": ["sick"]}
    found = do_import("folder", root, {"columns": columns})
    assert [(row.findings, row.labels, row.patient) for row in found.rows.values()] == [
        ("Clear.", {"sick": 1}, "p1"),
        ("All is well.", {"sick": 0}, "p1"),
    ]
    assert found["a.png"].notes["findings_source"] == "column text/findings"
    assert found["c.png"].notes["findings_source"] == "column text"
    assert found["a.png"].split == found["c.png"].split
    with pytest.raises(DataError, match=r"films.csv: no column 'sik' \(it has: img, who, text, file, sick\)"):
        do_import("folder", root, {"columns": {**columns, "labels": ["sik"]}})
    with pytest.raises(SettingsError, match="columns.fiel: unknown setting"):
        do_import("folder", root, {"columns": {"fiel": "img"}})


def test_without_a_column_of_patients_each_study_or_image_is_drawn_alone(root, do_import):
    write_csv(root / "films.csv", ["file"], [("a.png",), ("c.png",)])
    assert do_import("folder", root).summary["without_patient"] == 2
    write_csv(root / "films.csv", ["pixels"], [("a.png",)])
    with pytest.raises(DataError, match=r"no column for the image's file") as error:
        do_import("folder", root)
    assert error.value.hint == "--set columns.file=NAME"


def test_paths_stay_inside(root, do_import):
    draw_image(root.parent / "outside.png")
    stated = [
        "a.png",
        "../outside.png",
        str(root.parent / "outside.png"),
        "C:\\films\\a.png",
        str(root / "c.png"),
        "a.png",
    ]
    write_csv(root / "films.csv", ["file"], [(path,) for path in stated])
    found = do_import("folder", root)
    assert [row.file.name for row in found.rows.values()] == ["a.png", "c.png"]
    codes = [(item.id, item.code) for item in found.rejected.values()]
    assert codes == [
        ("../outside.png", "BAD_RECORD"),
        (str(root.parent / "outside.png"), "BAD_RECORD"),
        ("C:/films/a.png", "BAD_RECORD"),
        ("a.png", "DUPLICATE"),
    ]
    found = do_import("folder", root, {"images": str(root.parent)})
    assert {row.file.name for row in found.rows.values()} >= {"outside.png"}


def test_a_table_in_a_folder_of_its_own_or_anywhere(root, tmp_path_factory, do_import):
    write_csv(root / "sub" / "films.csv", ["file"], [("b.png",), ("a.png",)])
    assert do_import("folder", root).order == ["b.png", "a.png"]
    elsewhere = write_csv(tmp_path_factory.mktemp("t") / "t.csv.gz", ["file"], [("a.png",)])
    assert do_import("folder", root, {"table": str(elsewhere)}).order == ["a.png"]
    write_csv(root / "sub" / "more.csv", ["file"], [])
    with pytest.raises(DataError, match="several files fit: sub/films.csv, sub/more.csv"):
        do_import("folder", root)


def test_torn_rows_and_other_damage(root, do_import):
    path = root / "films.csv"
    path.write_bytes(b"\xef\xbb\xbffile,findings\na.png,ok\nc.png\n\nd.png,x,y\n")
    found = do_import("folder", root)
    assert found.order == ["a.png"]
    assert [item.message for item in found.rejected.values()] == [
        "films.csv:3: 1 cells; expected 2",
        "films.csv:5: 3 cells; expected 2",
    ]
    path.write_bytes(b"file,findings\na.png,\xff\n")
    with pytest.raises(DataError, match=r"films.csv:2: not UTF-8"):
        do_import("folder", root)
    path.write_bytes(b"\x1f\x8b\x08\x00 no gzip at all")
    with pytest.raises(DataError, match=r"films.csv: "):
        do_import("folder", root)
    path.write_bytes(b'file,findings\na.png,"' + b"x" * 200_000 + b'"\n')
    assert len(do_import("folder", root)["a.png"].findings) == 200_000
    path.unlink()
    with pytest.raises(DataError, match="expected a CSV, or --set table=FILE"):
        do_import("folder", root)
    with pytest.raises(DataError, match=r"none.csv: cannot be read \(No such file"):
        read_columns(root / "none.csv")
