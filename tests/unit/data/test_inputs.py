from __future__ import annotations

import multiprocessing
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from chexmix_cli.core.data.ids import IdMaker
from chexmix_cli.core.data.inputs import Refusal, Study, StudyImage, discover, load_pixels, study_of_file
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ImageSettings

SETTINGS = InputSettings()
ALL_VIEWS = InputSettings(views="all")
PRESET = resolve_preset("model", ImageSettings(resolution_px=64, intensity="voi", geometry="pad"), 1)
RAMP = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path, dataset_of, file_bytes) -> Put:
    """Return a function that writes a DICOM file below the test's folder; keyword arguments are attributes."""

    def write(name: str, **attributes: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_bytes(dataset_of(RAMP, **attributes)))
        return path

    return write


def picture(path: Path, shift: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RAMP + np.uint8(shift)).save(path)
    return path


def found(*inputs: object, settings: InputSettings = SETTINGS, **options: bool) -> list[Study | Refusal]:
    return list(discover([str(text) for text in inputs], settings, **options))


def files_of(results: list[Study | Refusal]) -> list[str]:
    """Return every file's name, as often as results hold it."""
    names = []
    for result in results:
        sources = result.sources if isinstance(result, Refusal) else [image.source for image in result.images]
        names += [source.name for source in sources]
    return names


def only(results: list[Study | Refusal]) -> Study:
    (study,) = results
    assert isinstance(study, Study)
    return study


def refusal(results: list[Study | Refusal]) -> Refusal:
    (result,) = results
    assert isinstance(result, Refusal)
    return result


def test_files_of_a_study_are_one_record(put, tmp_path):
    uid, other = generate_uid(), generate_uid()
    put("a/1", StudyInstanceUID=uid, ViewPosition="LL")
    put("a/2", StudyInstanceUID=other, ViewPosition="AP")
    put("b/3", StudyInstanceUID=uid, ViewPosition="PA")
    put("b/4", StudyInstanceUID=uid, ViewPosition="AP")
    first, second = found(tmp_path)
    assert isinstance(first, Study)
    assert isinstance(second, Study)
    assert first.id == IdMaker().of_uid(uid)
    assert (first.chosen.source.name, first.chosen.view) == ("3", View.PA)
    assert [(image.source.name, image.view) for image in first.others] == [("1", View.LATERAL), ("4", View.AP)]
    assert second.chosen.source.name == "2"


@pytest.mark.parametrize(
    ("views", "chosen"),
    [
        (["AP", "PA"], "PA"),
        (["LL", "AP"], "AP"),
        (["", "AP"], "AP"),
        (["LL", ""], ""),
        (["LLD", ""], ""),
        (["LL", "LLD"], "LLD"),
        (["PA", "PA"], "PA"),
    ],
)
def test_choice_of_the_frontal_image(put, tmp_path, views, chosen):
    uid = generate_uid()
    for number, view in enumerate(views):
        put(f"{number}-{view}.dcm", StudyInstanceUID=uid, ViewPosition=view)
    assert only(found(tmp_path)).chosen.source.name == f"{views.index(chosen)}-{chosen}.dcm"


def test_the_image_for_the_eye_is_taken_before_its_raw_twin(put, tmp_path):
    uid = generate_uid()
    put("1", StudyInstanceUID=uid, PresentationIntentType="FOR PROCESSING")
    put("2", StudyInstanceUID=uid, PresentationIntentType="FOR PRESENTATION")
    study = only(found(tmp_path))
    assert study.chosen.source.name == "2"
    assert [image.is_for_processing for image in study.others] == [True]
    # A raw frontal film still goes before a lateral one for the eye.
    (tmp_path / "2").unlink()
    put("3", StudyInstanceUID=uid, ViewPosition="LL")
    assert only(found(tmp_path)).chosen.source.name == "1"


def test_lateral_only_is_said_once_for_the_study(put, tmp_path):
    uid = generate_uid()
    for number in range(2):
        put(str(number), StudyInstanceUID=uid, ViewPosition="LL")
    result = refusal(found(tmp_path))
    assert (result.id, result.error.code) == (IdMaker().of_uid(uid), "LATERAL_ONLY")
    assert [source.name for source in result.sources] == ["0", "1"]


def test_all_views_give_a_record_an_image(put, tmp_path):
    uid = generate_uid()
    instances = [generate_uid(), generate_uid()]
    put("1", StudyInstanceUID=uid, ViewPosition="LL", SOPInstanceUID=instances[0])
    put("2", StudyInstanceUID=uid, SOPInstanceUID=instances[1])
    picture(tmp_path / "s12345678" / "x.png")
    results = found(tmp_path, settings=ALL_VIEWS, keep_uids=True)
    assert [result.id for result in results] == [f"{uid}/{instances[0]}", f"{uid}/{instances[1]}", "s12345678/x.png"]
    assert [only([result]).chosen.view for result in results] == [View.LATERAL, View.PA, View.UNKNOWN]


def test_unstated_views_are_noted(put):
    assert "the view is not stated; taken for frontal" in only(found(put("1", ViewPosition=""))).chosen.notes
    assert "the view is neither frontal nor lateral" in only(found(put("2", ViewPosition="RAO"))).chosen.notes
    assert only(found(put("3"))).chosen.notes == ()


def test_a_study_uid_that_is_missing(put, tmp_path):
    put("a/1", StudyInstanceUID=None)
    put("a/2", StudyInstanceUID=None, ViewPosition="LL")
    put("b/3", StudyInstanceUID=None)
    walked = found(tmp_path)
    assert [files_of([result]) for result in walked] == [["1", "2"], ["3"]]
    one_by_one = found(tmp_path / "a" / "1", tmp_path / "b" / "3")
    assert [files_of([result]) for result in one_by_one] == [["1"], ["3"]]


def test_uids_are_hashed_unless_kept(put):
    uid = generate_uid()
    path = put("x", StudyInstanceUID=uid)
    assert only(found(path)).id == IdMaker().of_uid(uid) != uid
    assert only(found(path, keep_uids=True)).id == uid


def test_the_same_image_again_is_a_duplicate_and_other_bytes_are_not(put, tmp_path):
    uid, instance = generate_uid(), generate_uid()
    first = put("a/1", StudyInstanceUID=uid, SOPInstanceUID=instance)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "copy").write_bytes(first.read_bytes())
    put("b/other", StudyInstanceUID=uid, SOPInstanceUID=instance, PatientComments="another version")
    study, copy = found(tmp_path)
    assert files_of([study]) == ["1", "other"]
    assert isinstance(copy, Refusal)
    assert copy.error.code == "DUPLICATE"
    assert files_of([copy]) == ["copy"]


def test_results_come_in_the_order_of_first_files(put, tmp_path):
    uid = generate_uid()
    picture(tmp_path / "1.png")
    put("2.dcm", StudyInstanceUID=uid, ViewPosition="AP")
    picture(tmp_path / "3.png")
    put("4.dcm", BodyPartExamined="HIP")
    put("5.dcm", StudyInstanceUID=uid)
    picture(tmp_path / "0" / "6.png")
    results = found(tmp_path)
    assert [files_of([result])[0] for result in results] == ["1.png", "2.dcm", "3.png", "4.dcm", "6.png"]
    again = found(tmp_path / "5.dcm", tmp_path / "3.png", tmp_path / "2.dcm")
    assert [files_of([result]) for result in again] == [["5.dcm", "2.dcm"], ["3.png"]]


def test_pictures_stream_before_the_first_dicom_file(put, tmp_path):
    picture(tmp_path / "1.png")
    put("2.dcm")
    results = discover([str(tmp_path)], SETTINGS)
    first = next(results)
    (tmp_path / "2.dcm").unlink()  # not looked at yet
    assert isinstance(first, Study)
    assert isinstance(list(results)[0], Refusal)


def test_names_of_pictures(tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "deep" / "a.png")
    given = found(tmp_path / "in" / "a.png", tmp_path / "in" / "deep" / "a.png")
    assert [result.id for result in given] == ["a.png", "a.png#2"]
    walked = found(tmp_path / "in")
    assert [result.id for result in walked] == ["a.png", "deep/a.png"]
    assert found(f"{tmp_path}/in/**/a.png")[1].id == "a.png#2"


def test_study_folders_of_pictures(tmp_path):
    picture(tmp_path / "p10" / "s50414267" / "b.jpg")
    picture(tmp_path / "p10" / "s50414267" / "a.jpg")
    picture(tmp_path / "patient1" / "study1" / "view1_lateral.jpg")
    picture(tmp_path / "patient1" / "study1" / "view2_frontal.jpg")
    picture(tmp_path / "patient1" / "study2" / "view1_lateral.jpg")
    picture(tmp_path / "patient1" / "studyroom" / "x.jpg")
    results = found(tmp_path)
    assert [result.id for result in results] == [
        "p10/s50414267",
        "patient1/study1",
        "patient1/study2",
        "patient1/studyroom/x.jpg",
    ]
    assert files_of(results[:1]) == ["a.jpg", "b.jpg"]
    study = results[1]
    assert isinstance(study, Study)
    assert (study.chosen.source.name, study.chosen.view) == ("view2_frontal.jpg", View.FRONTAL)
    assert refusal([results[2]]).error.reason is Reason.LATERAL_ONLY
    assert found(tmp_path / "p10" / "s50414267")[0].id == "s50414267"
    # Given by name, each picture is what was asked for.
    single = only(found(tmp_path / "patient1" / "study2" / "view1_lateral.jpg"))
    assert (single.id, single.chosen.view) == ("view1_lateral.jpg", View.UNKNOWN)


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
        assert (result.id, result.error.code, result.sources) == (str(text), "NOT_FOUND", ())
    assert len(found(tmp_path / "none", tmp_path / "empty")) == 2


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


def directory(path: Path, names: list[list[str]]) -> Path:
    """Write a DICOMDIR that lists files."""
    dataset = Dataset()
    dataset.file_meta = Dataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ".." is not allowed there
            record.ReferencedFileID = name
        records.append(record)
    dataset.FileSetID = "X"
    dataset.DirectoryRecordSequence = [Dataset(), *records]
    dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
    data = path.read_bytes()
    path.write_bytes(data if data[128:132] == b"DICM" else b"\0" * 128 + b"DICM" + data)
    return path


def test_dicomdir(put, tmp_path):
    put("DICOM/A")
    put("DICOM/B", ViewPosition="AP")
    put("DICOM/UNLISTED")
    listing = directory(tmp_path / "DICOMDIR", [["DICOM", "B"], ["DICOM", "A"], ["..", "x"]])
    walked = found(tmp_path)
    assert files_of(walked) == ["A", "B", "UNLISTED"]  # it is no image, and what it lists is found anyway
    given = found(listing)
    assert files_of(given) == ["B", "A"]
    assert "outside its folder" in str(refusal(given[2:]).error)


def test_one_file_under_a_given_id(put, tmp_path):
    path = put("x", ViewPosition="LL")
    result = study_of_file(path, SETTINGS, "my id")
    assert isinstance(result, Refusal)
    assert (result.id, result.error.code) == ("my id", "LATERAL_ONLY")
    assert only([study_of_file(path, ALL_VIEWS, "my id")]).id == "my id"
    assert only([study_of_file(picture(tmp_path / "y.png"), SETTINGS, "other")]).id == "other"
    missing = study_of_file(tmp_path / "none", SETTINGS, "gone")
    assert isinstance(missing, Refusal)
    assert (missing.id, missing.error.code) == ("gone", "NOT_FOUND")
    text = tmp_path / "text.txt"
    text.write_text("hello")
    assert refusal([study_of_file(text, SETTINGS, "t")]).error.code == "UNKNOWN_FORMAT"
    listing = directory(tmp_path / "DICOMDIR", [])
    assert refusal([study_of_file(listing, SETTINGS, "d")]).error.code == "NOT_RADIOGRAPH"


def _mean(image: StudyImage) -> float:
    pixels, _ = load_pixels(image, PRESET)
    return float(pixels.mean())


def test_studies_and_refusals_travel_to_worker_processes(put, tmp_path):
    put("1")
    put("2", BodyPartExamined="HIP")
    archive = tmp_path / "3.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.write(picture(tmp_path / "x" / "x.png"), "x.png")
    study, refused, zipped = [pickle.loads(pickle.dumps(result)) for result in found(tmp_path)[:3]]
    assert refused.error.code == "NOT_CHEST"
    assert str(refused.error) == "the header says HIP; expected CHEST or THORAX"
    images = [study.chosen, zipped.chosen] * 3
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_mean, images) == [_mean(image) for image in images]


def test_what_a_model_sees(put):
    study = only(found(put("1", ViewPosition="")))
    pixels, notes = load_pixels(study.chosen, PRESET)
    assert pixels.shape == (1, 64, 64)
    assert pixels.dtype == np.float32
    assert np.array_equal(np.rint((pixels[0] + 1) * 127.5).astype(np.uint8), RAMP)
    assert notes == ["the view is not stated; taken for frontal"]
    assert study.chosen.load(PRESET).image.size == (64, 64)


def test_a_file_that_breaks_after_it_was_found(put):
    path = put("1")
    study = only(found(path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError) as caught:
        load_pixels(study.chosen, PRESET)
    assert caught.value.reason is Reason.SHORT_PIXELS
    path.unlink()
    with pytest.raises(DataError) as caught:
        load_pixels(study.chosen, PRESET)
    assert caught.value.reason is Reason.NOT_FOUND


def test_blank_films_are_refused(put, tmp_path):
    Image.new("L", (64, 64), 9).save(tmp_path / "grey.png")
    for name in ("voi", "official"):
        preset = resolve_preset(name, PRESET.image, 1)
        with pytest.raises(DataError, match="same value") as caught:
            load_pixels(only(found(tmp_path / "grey.png")).chosen, preset)
        assert caught.value.reason is Reason.BLANK
