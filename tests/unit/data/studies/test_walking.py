"""What inputs lead to: folders, globs, archives, DICOMDIRs, and names that lead to nothing."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
from input_helpers import PRESET, directory, files_of, found, only, picture, refusal
from pydicom.uid import generate_uid

from chexmix_cli.core.data.studies.inputs import Refusal, load_pixels
from chexmix_cli.core.settings.inference import InputSettings


def test_what_a_walk_passes_over_and_what_it_does_not(put, tmp_path):
    picture(tmp_path / "film.png")
    for name in ("notes.txt", "labels.csv", "x.json", "README", ".hidden.png", ".git/x.png", "weights.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"PK\x03\x04 something" if name == "weights.npz" else b"something")
    put("IM0001")
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    (tmp_path / "text.jpg").write_text("no picture at all")
    (tmp_path / "empty.DCM").write_bytes(b"")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    results = found(tmp_path)
    assert files_of(results) == ["IM0001", "empty.DCM", "film.png", "link.png", "text.dcm", "text.jpg"]
    codes = [result.error.code for result in results if isinstance(result, Refusal)]
    assert codes == ["UNKNOWN_FORMAT", "NOT_FOUND", "UNKNOWN_FORMAT", "UNKNOWN_FORMAT"]


def test_a_file_given_by_name_is_never_passed_over(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert refusal(found(path)).error.code == "UNKNOWN_FORMAT"
    assert "neither DICOM nor a picture" in str(refusal(found(path)).error)


def test_nothing_found(tmp_path):
    (tmp_path / "empty").mkdir()
    for text in (tmp_path / "empty", tmp_path / "none", f"{tmp_path}/*.png"):
        result = refusal(found(text))
        # Called by its place: a path may name a patient.
        assert (result.id, result.error.code, result.sources) == ("input 1", "NOT_FOUND", ())
    assert [result.id for result in found(tmp_path / "none", tmp_path / "empty")] == ["input 1", "input 2"]


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "x/" * 3000, "[", "*\0", "\udcff", ""])
def test_names_that_no_file_can_have(name):
    assert refusal(found(f"/nowhere/{name}")).error.code == "NOT_FOUND"


def test_a_file_reached_twice_comes_once(put, tmp_path):
    picture(tmp_path / "a.png")
    put("b")
    assert len(found(tmp_path, tmp_path / "a.png", tmp_path / "b", f"{tmp_path}/*")) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders(tmp_path):
    picture(tmp_path / "a.png").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    results = found(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert [result.error.code for result in results if isinstance(result, Refusal)] == ["UNREADABLE", "UNREADABLE"]


def test_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal(found(tmp_path)).error.code == "UNREADABLE"


def test_large_files_are_not_read(put, tmp_path):
    path = put("x")
    with path.open("ab") as stream:
        stream.truncate(2 << 20)
    result = refusal(found(path, settings=InputSettings(max_file_mb=1)))
    assert result.error.code == "TOO_LARGE"
    assert "input.max_file_mb" in str(result.error)


def test_zip_archives_are_folders(put, tmp_path):
    uid = generate_uid()
    archive = tmp_path / "in" / "all.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.write(put("1", StudyInstanceUID=uid, ViewPosition="LL"), "st/b/1")
        writer.write(put("2", StudyInstanceUID=uid), "st/a/2")
        writer.write(picture(tmp_path / "x.png"), "films/x.png")
        writer.writestr("films/readme.txt", "hello")
        writer.writestr("__MACOSX/films/._x.png", "attributes")
        writer.writestr("text.dcm", "hello")
        writer.writestr("inner.zip", b"PK\x03\x04")
    results = found(archive)
    assert files_of(results) == ["x.png", "inner.zip", "2", "1", "text.dcm"]
    assert results[0].id == "films/x.png"
    assert [result.error.code for result in results if isinstance(result, Refusal)] == ["UNKNOWN_FORMAT"] * 2
    pixels, _ = load_pixels(only([results[2]]).chosen, PRESET)
    plain, _ = load_pixels(only(found(tmp_path / "2")).chosen, PRESET)
    assert np.array_equal(pixels, plain)
    assert found(archive.parent)[0].id == "all.zip/films/x.png"


def test_zip_members_that_leave_the_archive_or_explode(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for name in ("../up.png", "/root.png", "a/../../up.dcm", "..\\up.png"):
            writer.writestr(name, picture(tmp_path / "p.png").read_bytes())
        writer.writestr("bomb.dcm", b"\0" * 128 + b"DICM" + b"\0" * (4 << 20))
        writer.writestr("bomb.png", picture(tmp_path / "p.png").read_bytes() + b"\0" * (4 << 20))
    results = found(archive)
    codes = {result.sources[0].member: result.error.code for result in results if isinstance(result, Refusal)}
    assert codes == {
        "../up.png": "UNREADABLE",
        "/root.png": "UNREADABLE",
        "a/../../up.dcm": "UNREADABLE",
        "..\\up.png": "UNREADABLE",
        "bomb.dcm": "TOO_LARGE",
        "bomb.png": "TOO_LARGE",
    }


def test_zip_members_above_the_bound_of_files(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("big.png", picture(tmp_path / "p.png").read_bytes() + os.urandom(2 << 20))
    assert refusal(found(archive, settings=InputSettings(max_file_mb=1))).error.code == "TOO_LARGE"


def test_damaged_archives(tmp_path):
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.write(picture(tmp_path / "p.png"), "p.png")
    data = bytearray(broken.read_bytes())
    data[60:70] = b"\xff" * 10
    broken.write_bytes(data)
    assert refusal(found(broken)).error.code == "CORRUPT"
    broken.write_bytes(data[:50])
    assert refusal(found(broken)).error.code == "CORRUPT"
    (tmp_path / "p.png").unlink()
    assert refusal(found(tmp_path)).error.code == "CORRUPT"


def test_encrypted_members(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("p.png", picture(tmp_path / "p.png").read_bytes())
    data = archive.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\x01\0")
    archive.write_bytes(data)
    assert "encrypted" in str(refusal(found(archive)).error)


def test_dicomdir(put, tmp_path):
    put("DICOM/A")
    put("DICOM/B", ViewPosition="AP")
    put("DICOM/UNLISTED")
    listing = directory(tmp_path / "DICOMDIR", [["DICOM", "B"], ["DICOM", "A"], ["..", "x"]])
    walked = found(tmp_path)
    assert files_of(walked[:3]) == ["A", "B", "UNLISTED"]  # what it lists is found anyway, and what it lists besides
    assert "lists 1 files that are not here" in str(refusal(walked[3:]).error)
    given = found(listing)
    assert files_of(given) == ["B", "A"]
    assert "outside its folder" in str(refusal(given[2:]).error)


def test_names_of_a_dicomdir_in_other_letters(put, tmp_path):
    put("dicom/im1;1")
    put("dicom/im2")
    listing = directory(tmp_path / "dicomdir", [["DICOM", "IM1"], ["DICOM", "IM2"], ["DICOM", "IM3"]])
    given = found(listing)
    assert files_of(given[:2]) == ["im1;1", "im2"]
    assert refusal(given[2:]).error.code == "NOT_FOUND"
    assert "lists 1 files that are not here" in str(found(tmp_path)[2].error)


def test_a_dicomdir_that_lists_nothing(tmp_path):
    directory(tmp_path / "in.dcm", [])
    assert refusal(found(tmp_path / "in.dcm")).error.code == "NOT_FOUND"
    assert refusal(found(tmp_path)).error.code == "NOT_FOUND"


def test_linked_folders_are_entered_once_and_never_upwards(put, tmp_path):
    for name in ("1/a", "2/b", "3/c"):
        put(f"archive/{name}")
    cohort = tmp_path / "cohort"
    (cohort / "own").mkdir(parents=True)
    (cohort / "own" / "again").symlink_to(cohort / "own")
    (cohort / "first").symlink_to("../archive/1")
    (cohort / "same").symlink_to("../archive/1")
    (cohort / "second").symlink_to(tmp_path / "archive" / "2")
    (tmp_path / "archive" / "2" / "up").symlink_to("../../archive")
    (tmp_path / "archive" / "1" / "back").symlink_to("../../cohort")
    (cohort / "round").symlink_to("round")
    (cohort / "gone").symlink_to("../archive/4")
    results = found(cohort)
    assert files_of([result for result in results if not isinstance(result, Refusal)]) == ["a", "b"]
    refused = {result.id: str(result.error) for result in results if isinstance(result, Refusal)}
    assert sorted(refused.values()) == [
        "a symbolic link that leads in a circle",
        "a symbolic link to a folder above it is not followed",
        "a symbolic link whose target is missing",
    ]
    assert "input 1" in refused


def test_what_git_leaves_in_place_of_a_film_is_named(tmp_path):
    for name, text in (
        ("link", "../films/1"),
        ("annexed.dcm", "/annex/objects/SHA256E-s1--0.dcm\n"),
        ("large.png", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("notes.txt", "see ../films/1 for more"),
    ):
        (tmp_path / name).write_text(text)
    assert [str(result.error).partition(",")[0] for result in found(tmp_path)] == [
        "the path of a symbolic link as text",
        "a pointer of Git LFS",
        "the path of a symbolic link as text",
    ]


def test_archives_made_on_windows(put, tmp_path):
    archive = tmp_path / "w.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("cd\\", b"")
        for folder in ("a", "b"):
            film = put(folder, StudyInstanceUID=None, PatientID="1", SOPInstanceUID=generate_uid())
            writer.write(film, f"cd\\{folder}\\IM1")
        writer.write(picture(tmp_path / "x.png"), "cd\\study1\\view1_frontal.png")
        writer.writestr("cd\\.hidden\\x.png", b"\x89PNG\r\n\x1a\n")
    results = found(archive)
    assert files_of(results) == ["IM1", "IM1", "view1_frontal.png"]
    assert results[2].id == "cd/study1"


def test_a_way_of_packing_that_is_not_read_is_named(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("p.png", picture(tmp_path / "p.png").read_bytes())
    data = bytearray(archive.read_bytes())
    for magic, at in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        place = data.index(magic) + at
        data[place : place + 2] = (9).to_bytes(2, "little")
    archive.write_bytes(data)
    error = refusal(found(archive)).error
    assert (error.code, "packed by Deflate64" in str(error)) == ("UNREADABLE", True)
