"""Open-i / Indiana University: the XML collection, and the two CSVs made of it."""

from __future__ import annotations

import pytest
from dataset_trees import draw_image, write_csv

from chexmix_cli.core.errors import DataError


def report(number, images, *, findings="", impression="", mesh=()):
    parents = "".join(
        f'<parentImage id="{name}"><figureId>F1</figureId><caption>Xray Chest PA and Lateral</caption>'
        f'<panel type="single"><url>/hadoop/{name}.jpg</url></panel></parentImage>'
        for name in images
    )
    majors = "".join(f"<major>{name}</major>" for name in mesh)
    return f"""<?xml version="1.0" encoding="utf-8"?>
<eCitation><meta type="rr"/><uId id="CXR{number}"/><pmcId id="{number}"/><docSource>CXR</docSource>
<IUXRId id="{number}"/><licenseType>open-access</licenseType>
<MedlineCitation Owner="Indiana University"><Article PubModel="Electronic"><Journal/><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">Cough</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation>
<MeSH>{majors}<automatic>sternotomy</automatic></MeSH>{parents}</eCitation>"""


@pytest.fixture
def xml(tmp_path):
    folder = tmp_path / "ecgen-radiology"
    folder.mkdir()
    texts = {
        1: report(
            1,
            ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"],
            findings="The heart &amp; lungs are XXXX.",
            impression="Normal chest x-XXXX.",
            mesh=["normal"],
        ),
        2: report(2, ["CXR2_IM-0652-1001"], impression="Big heart.", mesh=["Cardiomegaly/borderline", "No Indexing"]),
        10: report(10, [], findings="No image."),
        11: report(11, ["CXR11_IM-0067-1001"])[:-30],
    }
    for number, text in texts.items():
        (folder / f"{number}.xml").write_text(text)
    for number, name in enumerate(["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001"]):
        draw_image(tmp_path / "NLMCXR_png" / f"{name}.png", number)
    return tmp_path


@pytest.fixture
def kaggle(tmp_path):
    write_csv(
        tmp_path / "indiana_reports.csv",
        ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"],
        [
            (1, "normal", "normal", "Xray Chest PA and Lateral", "Cough", "None.", "The lungs are XXXX.", "Normal."),
            (2, "Cardiomegaly/borderline;Spine", "Cardiomegaly;Spine", "Chest, 2 views", "", "", "", "Big heart."),
        ],
    )
    projections = [
        (1, "1_IM-0001-4001.dcm.png", "Frontal"),
        (1, "1_IM-0001-3001.dcm.png", "Lateral"),
        (2, "2_IM-0652-1001.dcm.png", "Frontal"),
        (3, "3_IM-1384-1001.dcm.png", "Frontal"),
    ]
    write_csv(tmp_path / "indiana_projections.csv", ["uid", "filename", "projection"], projections)
    for number, (_, name, _) in enumerate(projections[:3]):
        draw_image(tmp_path / "images" / "images_normalized" / name, number)
    return tmp_path


def test_the_xml_collection(xml, do_import):
    found = do_import("openi", xml)
    assert found.order == ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001"]
    row = found["CXR1_1_IM-0001-3001"]
    assert (row.study, row.patient) == ("CXR1", "CXR1")
    assert (row.findings, row.impression) == ("The heart & lungs are XXXX.", "Normal chest x-XXXX.")
    assert row.labels == {"normal": 1}
    assert row.view is None
    assert found["CXR2_IM-0652-1001"].findings is None
    assert found["CXR2_IM-0652-1001"].labels == {"Cardiomegaly": 1}
    assert found["CXR2_IM-0652-1001"].notes == {
        "impression_source": "XML/impression", "label_source": "MeSH", "split_source": "hash",
    }  # fmt: skip
    assert {name: item.code for name, item in found.rejected.items()} == {"11.xml": "CORRUPT"}


def test_kaggles_projections_tell_the_views_of_the_xml_collection(xml, kaggle, do_import):
    found = do_import("openi", xml)
    assert [found[name].view for name in found.order] == ["LATERAL", "FRONTAL", "FRONTAL"]
    assert found["CXR1_1_IM-0001-3001"].notes["view_source"] == "indiana_projections.csv"


def test_the_two_csvs_alone(kaggle, do_import):
    found = do_import("openi", kaggle, {"absent_is_zero": ["Cardiomegaly"]})
    assert found.order == ["1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001"]
    row = found["1_IM-0001-4001"]
    assert (row.study, row.view, row.findings, row.impression) == ("1", "FRONTAL", "The lungs are XXXX.", "Normal.")
    assert row.labels == {"normal": 1, "Cardiomegaly": 0}
    assert found["2_IM-0652-1001"].labels == {"Cardiomegaly": 1, "Spine": 1}
    assert {name: item.code for name, item in found.rejected.items()} == {"3_IM-1384-1001": "NOT_FOUND"}


def test_what_is_no_openi_is_an_error(tmp_path, do_import):
    with pytest.raises(DataError, match="no reports are here"):
        do_import("openi", tmp_path)
    (tmp_path / "1.xml").write_text("<other/>")
    with pytest.raises(DataError, match=r"no row can be used, the first: .* \(BAD_RECORD: 1\)"):
        do_import("openi", tmp_path)


def test_xml_entities_are_not_expanded_without_bound(xml, do_import):
    levels = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">{levels}]><eCitation>&a11;</eCitation>'
    (xml / "ecgen-radiology" / "12.xml").write_text(bomb)
    (xml / "ecgen-radiology" / "13.xml").write_text("<eCitation>" + " " * (1 << 20) + "</eCitation>")
    rejected = do_import("openi", xml).rejected
    assert rejected["12.xml"].code == "CORRUPT"
    assert rejected["13.xml"].code == "TOO_LARGE"
