"""Tables: what is torn, swallowed or odd is said with its line, and nothing else is lost."""

from __future__ import annotations

import pytest

from chexmix_cli.commands.records.record_file import write_table
from chexmix_cli.core.data.labels import NO_FINDING, finding_name, named_labels, parse_labels
from chexmix_cli.core.data.report_files import read_reports
from chexmix_cli.core.data.tables import read_columns, read_table
from chexmix_cli.core.errors import DataError, Reason

HEADER = "file,patient,report\n"


def rows_of(path):
    return [dict(row.cells) for row in read_table(path)]


@pytest.mark.parametrize(
    "body",
    [
        'a1.png,1,"Clear.\nb2.png,2,Effusion.\nc3.png,3,Clear.\n',
        'a1.png,1,"Clear.\nb2.png,2,"Effusion."\n',
        'a1.png,1,"Clear.\nb2.png,2,Effusion 3"\nc3.png,3,Clear.\n',
        '"a1.png","1","Clear.\n"b2.png","2","Effusion."\n',
    ],
    ids=["to the end", "to the next quote", "to a stray one", "all cells in quotes"],
)
def test_an_open_quote_is_named_by_its_row(tmp_path, body):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "z0.png,0,Clear.\n" + body)
    with pytest.raises(DataError, match=r"t.csv:3: a quote opens in this row"):
        rows_of(path)


def test_reports_of_several_lines_are_no_open_quotes(tmp_path):
    path = tmp_path / "t.csv"
    report = "FINDINGS: Heart, lungs and bones normal.\n1, 2, 3\n\n9.png is a word here, too, as any\r\nEnd."
    path.write_bytes((HEADER + f'a1.png,1,"{report}"\r\nb2.png,2,"3"" tube"\n').encode())
    assert [row["report"] for row in rows_of(path)] == [report, '3" tube']


def test_one_row_with_a_stray_quote_is_refused_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + 'a.png,1,"Tube 3" above"\nb.png,2,Clear.\n')
    first, second = read_table(path)
    with pytest.raises(DataError, match="t.csv:2: a quote opens or ends within a cell"):
        first.check()
    assert second.cells["file"] == "b.png"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_an_index_without_a_name_and_other_line_ends(tmp_path, encoding):
    path = tmp_path / "t.tsv"
    path.write_bytes("\tid\treport\r0\ta\tx\u2028y\x0bz\r1\tb\t\u0085\r".encode(encoding))
    assert rows_of(path) == [{"id": "a", "report": "x\u2028y\x0bz"}, {"id": "b", "report": "\u0085"}]
    assert read_columns(path) == ["id", "report"]


def test_bytes_that_are_no_text_have_their_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER.encode() + b"a.png,1,x\n" * 5000 + b"b.png,2,\xe9\n")
    with pytest.raises(DataError, match="t.csv:5002: not UTF-8"):
        rows_of(path)


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "t.csv").write_text("id,report,report\na,b,c\n")
    with pytest.raises(DataError, match="2 columns are called 'report'"):
        rows_of(tmp_path / "t.csv")


def test_a_first_row_that_is_no_header_is_not_quoted(tmp_path):
    path = tmp_path / "t.csv"
    for header in ("a.png,ROE^JANE", "Jane Roe,Heart is normal.", "Roe"):
        path.write_text(header + "\n")
        with pytest.raises(DataError) as caught:
            list(read_table(path, ("file",)))
        assert "oe" not in str(caught.value).replace("does", "")


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("pleural effusion", "Pleural Effusion"),  # PadChest, BIMCV
        ("Pleural effusion", "Pleural Effusion"),  # VinDr
        ("PLEURAL_EFFUSION", "Pleural Effusion"),
        ("Pleural thickening", "Pleural_Thickening"),
        ("pleural-thickening", "Pleural_Thickening"),
        ("No finding", NO_FINDING),
        ("normal", NO_FINDING),
        ("Airspace Opacity", "Lung Opacity"),
        ("infiltrates", "Infiltration"),
        ("Infiltrate", "Infiltration"),
        ("Pulmonary fibrosis", "Fibrosis"),
        ("effusion", "Effusion"),
        ("Nodule/Mass", "Nodule/Mass"),
        (" Aortic enlargement ", "Aortic enlargement"),
    ],
)
def test_a_finding_has_one_name(spelled, name):
    assert finding_name(spelled) == name


def test_spellings_of_one_finding_must_agree():
    assert named_labels([("Edema", 1), ("edema", None), ("EDEMA", "1.0")]) == {"Edema": 1}
    with pytest.raises(DataError, match="contradicts 'Edema'"):
        named_labels([("Edema", 1), ("edema", 0)])
    assert parse_labels({"pleural effusion": "1", "x": "?", "Mass": "0"}, ("Mass", "Pleural Effusion")) == {
        "Mass": 0,
        "Pleural Effusion": 1,
    }


@pytest.mark.parametrize(("ending", "is_called"), [("xlsx", "an Excel workbook"), ("parquet", "a Parquet file")])
def test_tables_that_are_no_text_say_what_to_do(tmp_path, ending, is_called):
    path = tmp_path / f"reports.{ending}"
    pytest.importorskip({"xlsx": "openpyxl", "parquet": "pyarrow"}[ending], reason="the extra tables is not installed")
    write_table(path, [{"id": "a", "status": "ok", "report": "No effusion."}])
    for read in (read_columns, lambda path: read_reports(path, prefers="prediction")):
        with pytest.raises(DataError, match=rf"reports\.{ending}: is {is_called}.*expected text") as caught:
            read(path)
        assert caught.value.reason is Reason.UNKNOWN_FORMAT
        assert "save the table as CSV" in caught.value.hint
