from __future__ import annotations

import multiprocessing
import pickle
import zipfile

import numpy as np
import pytest
from input_helpers import PRESET, RAMP, SETTINGS, directory, files_of, found, only, picture, refusal
from PIL import Image
from pydicom.uid import generate_uid

from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.data.studies.inputs import Refusal, Study, StudyImage, discover, load_pixels, study_of_file
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

ALL_VIEWS = InputSettings(views="all")


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
    put("a/1", StudyInstanceUID=None, PatientID="7")
    put("a/2", StudyInstanceUID=None, PatientID="7", ViewPosition="LL")
    put("b/3", StudyInstanceUID=None, PatientID="7")
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


def test_two_patients_never_share_a_record(put, tmp_path):
    uid = generate_uid()
    put("1", StudyInstanceUID=uid, PatientID="7")
    put("2", StudyInstanceUID=uid, PatientID="7", ViewPosition="LL")
    put("3", StudyInstanceUID=uid, PatientID="8")
    put("4", StudyInstanceUID=uid, PatientName="Roe^Jane")
    put("5", StudyInstanceUID=uid, PatientName="Roe^John")
    results = found(tmp_path)
    assert [files_of([result]) for result in results] == [["1", "2"], ["3"], ["4"], ["5"]]
    base = IdMaker().of_uid(uid)
    assert [result.id for result in results] == [base, f"{base}#2", f"{base}#3", f"{base}#4"]
    note = "other images with this study UID name another patient and have a record of their own"
    assert all(note in only([result]).chosen.notes for result in results)


def test_films_of_a_flat_folder_without_uids(put, tmp_path):
    put("flat/1", StudyInstanceUID=None)
    put("flat/2", StudyInstanceUID=None)
    put("flat/3", StudyInstanceUID=None, PatientID="7", StudyDate="20200101")
    put("flat/4", StudyInstanceUID=None, PatientID="7", StudyDate="20210101")
    put("study1/5", StudyInstanceUID=None)
    put("study1/6", StudyInstanceUID=None, ViewPosition="LL")
    results = found(tmp_path)
    assert [files_of([result]) for result in results] == [["1"], ["2"], ["3"], ["4"], ["5", "6"]]


def test_a_film_that_cannot_be_read_leaves_its_study_the_other_one(put, tmp_path):
    uid = generate_uid()
    damaged = put("1", StudyInstanceUID=uid)
    put("2", StudyInstanceUID=uid, ViewPosition="LL")
    put("3", StudyInstanceUID=uid, ViewPosition="")
    study = only(found(tmp_path))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    read = study.load(PRESET)
    assert (read.image.source.name, [image.source.name for image in read.failed]) == ("3", ["1"])
    assert read.loaded.notes == [
        "the view is not stated; taken for frontal",
        f"image {study.chosen.id} cannot be read (SHORT_PIXELS); this is another one",
    ]
    # Found damaged it has a record of its own, and the study says so; a lateral film never stands in.
    lost, rest = sorted(found(tmp_path), key=lambda result: isinstance(result, Study))
    assert refusal([lost]).error.code == "SHORT_PIXELS"
    assert any("is refused (SHORT_PIXELS)" in note for note in only([rest]).chosen.notes)
    (tmp_path / "3").unlink()
    with pytest.raises(DataError) as caught:
        study.load(PRESET)
    assert caught.value.reason is Reason.SHORT_PIXELS
