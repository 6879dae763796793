"""chexmix review, and the records of other commands as pages: what is in them, and what must not be."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from chexmix_cli.library.review import Review, naming_folder

PICTURE = "data:image/webp;base64,"


@pytest.fixture
def films(repository, tmp_path, make_dicom):
    folder = tmp_path / "films"
    (folder / "inner").mkdir(parents=True)
    shutil.copy(repository / "docs" / "images" / "demo-film.jpg", folder / "inner" / "film.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    make_dicom(folder / "study.dcm")
    return folder


def data_of(path):
    page = path.read_text(encoding="utf-8")
    return page, json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_folder_becomes_a_page_that_names_files_but_no_patient(call, films, tmp_path, planted):
    target = tmp_path / "out" / "review.html"
    result = call("review", films, "-o", target, "--explain", "--set", "page.film_px=96")
    assert (result.code, result.stdout) == (3, ""), result.stderr
    assert "3 studies" in result.stderr
    page, data = data_of(target)
    studies = {study["file"]: study for study in data["studies"]}
    assert set(studies) == {"inner/film.jpg", "broken.png", "study.dcm"}
    assert str(tmp_path) not in page
    assert not [text for text in planted if text in page]
    film = studies["inner/film.jpg"]
    assert film["film"].startswith(PICTURE)
    assert film["roundtrip"].startswith(PICTURE)
    assert film["findings"][0]["threshold"] < 1
    assert " ".join(one["text"] for one in film["sentences"]) == " ".join(film["report"].split())
    assert studies["broken.png"]["error"]["code"]


def test_codes_on_stdin_are_reviewed_with_what_a_manifest_says_of_them(call, films, tmp_path):
    line = {"id": "x", "file": str(films / "inner" / "film.jpg"), "patient": "p", "split": "val", "view": "PA"}
    target = tmp_path / "review.html"
    result = call("review", "-", "-o", target, stdin=f"{json.dumps(line)}\n" * 2)
    assert result.code == 3, result.stderr
    study, again = data_of(target)[1]["studies"]
    assert again["error"]["code"] == "DUPLICATE", "decisions are kept by id"
    assert (study["id"], study["patient"], study["split"], study["file"]) == ("x", "p", "val", "film.jpg")


def test_files_are_named_from_the_page_on_where_they_lie_beside_it(tmp_path):
    films, page = tmp_path / "a" / "films", tmp_path / "a" / "review.html"
    films.mkdir(parents=True)
    assert naming_folder([str(films)], page) == (tmp_path / "a", True)
    assert naming_folder([str(films), str(tmp_path / "x.png")], page) == (tmp_path, False)
    assert naming_folder(["-"], page) == (None, False)


def test_nothing_at_all_is_a_page_of_what_was_refused(call, films, tmp_path):
    target = tmp_path / "review.html"
    assert call("review", films / "broken.png", "-o", tmp_path / "review.pdf").code == 2
    assert call("review", films / "broken.png", "-o", target).code == 1
    assert "error" in data_of(target)[1]["studies"][0]
    assert call("review", films / "broken.png", "-o", tmp_path / "not.html", "--fail-fast").code == 1
    assert not (tmp_path / "not.html").exists()


def test_a_run_that_is_stopped_keeps_what_it_has(call, films, tmp_path, monkeypatch):
    add = Review.add

    def stopped(review, job, result):
        if review.studies:
            raise KeyboardInterrupt
        add(review, job, result)

    monkeypatch.setattr(Review, "add", stopped)
    target = tmp_path / "review.html"
    assert call("review", films / "broken.png", films / "study.dcm", "-o", target).code == 130
    assert len(data_of(target)[1]["studies"]) == 1


def test_records_are_a_page_beside_stdout_or_in_its_place(call, films, tmp_path):
    film, beside, alone = films / "inner" / "film.jpg", tmp_path / "beside.html", tmp_path / "alone.html"
    result = call("classify", film, films / "broken.png", "--html", beside, "-o", alone)
    assert (result.code, result.stdout) == (3, ""), result.stderr
    page = beside.read_text(encoding="utf-8")
    assert page == alone.read_text(encoding="utf-8")
    assert page.count(PICTURE) == 1
    assert "1 of 2 done" in page
    assert str(films) not in page, "files are named with --paths only"
    result = call("inpaint", film, "--block", "0.2", "--html", beside, "--paths")
    assert [record["id"] for record in result.records] == ["film.jpg"]
    page = beside.read_text(encoding="utf-8")
    assert page.count(PICTURE) == 3
    assert str(film) in page
