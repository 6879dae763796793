"""From inputs to studies: every file ends in exactly one study or refusal, in the order of first files.

Headers are read here, pixels are not. Grouping needs the whole list: from the first DICOM file on, results come after
the last header; before it, and with ``input.views = "all"``, at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.dicom.decode import check_layout
from chexmix_cli.core.data.dicom.file import DicomFile, parse_header
from chexmix_cli.core.data.dicom.triage import judge, states_text
from chexmix_cli.core.data.images.pictures import check_picture
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.data.studies.study import Refusal, Study, StudyImage, best_image, load_pixels
from chexmix_cli.core.data.studies.walking import FoundFile, Missing, walk_inputs
from chexmix_cli.core.data.views import View, view_of_words
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

__all__ = ["Refusal", "Study", "StudyImage", "discover", "load_pixels", "study_of_file", "with_stated_view"]

#: Folders that name a study, as in MIMIC-CXR and CheXpert.
_STUDY_FOLDER = re.compile(r"s\d{8}|study\d+", re.IGNORECASE)
_VIEW_NOTES = {
    View.UNKNOWN: "the view is not stated; taken for frontal",
    View.OTHER: "the view is neither frontal nor lateral",
}


#: Begins the key of a study that has a UID.
_UID = "uid "
#: Refusals that say that a file is no film of the study; all others say that a film of it was lost.
_NO_FILM = (Reason.NOT_RADIOGRAPH, Reason.NOT_CHEST)


@dataclass(slots=True)
class _Group:
    """Images of one study, as they come in. ``name`` is its id before it is made unique."""

    name: str
    key: _Key | None = None
    images: list[StudyImage] = field(default_factory=list)
    instances: dict[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Key:
    """What binds images into a study: a UID or a folder, and the patient, whatever the UIDs say (PS3.3, A.1.2)."""

    study: str
    patient: str | None


@dataclass(frozen=True, slots=True)
class _Accepted:
    """An image and the study it belongs to; no key is a study of its own."""

    image: StudyImage
    key: _Key | None
    group_name: str
    instance_uid: str | None


@dataclass(frozen=True, slots=True)
class _Lost:
    """A film that its header refuses, and the study it belongs to."""

    refusal: Refusal
    key: _Key | None
    note: str


def discover(
    inputs: Sequence[str], settings: InputSettings, *, keep_uids: bool = False, names: Sequence[str] | None = None
) -> Iterator[Study | Refusal]:
    """Yield the studies that inputs lead to, and a refusal for what cannot be used.

    Args:
        inputs: files, folders (walked), globs, zip archives, URLs of DICOMweb.
        settings: bounds, and ``views``: a record for each study, or for each image.
        keep_uids: name DICOM studies by their UID instead of a salted hash.
        names: what to call each input that leads to nothing; by default ``input 1`` and so on.

    Raises:
        MachineError: if the salt of ids can be neither read nor made.
    """
    ids = IdMaker(keep_uids=keep_uids)
    studies = _Studies(settings, ids)
    for found in walk_inputs(inputs, settings, names):
        result = studies.take(_examine(found, settings, ids))
        if result is None:
            continue
        if studies.waiting:
            studies.waiting.append(result)
        else:
            yield result
    for slot in studies.waiting:
        yield studies.close(slot) if isinstance(slot, _Group) else slot


def study_of_file(path: Path, settings: InputSettings, record_id: str) -> Study | Refusal:
    """Return one file as a study of its own under a given id, as a manifest's or a record's line names it."""
    return study_of_source(Source.named(path), settings, record_id)


def study_of_source(source: Source, settings: InputSettings, record_id: str) -> Study | Refusal:
    """Return one file, or member of an archive, as a study of its own under a given id."""
    ids = _GivenIds(record_id)
    try:
        found = FoundFile(source, record_id, source.kind(), None)
    except DataError as error:
        return Refusal(record_id, error, (source,))
    result = _examine(found, settings, ids)
    if isinstance(result, _Lost):
        return result.refusal
    if isinstance(result, Refusal):
        return result
    if settings.views == "all":
        return _alone(result.image, record_id)
    return _Studies(settings, ids).close(_Group(record_id, images=[result.image]))


def with_stated_view(study: Study, view: View) -> Study:
    """Return a study of one file with the view that its line of a manifest states, if the file itself states none."""
    if study.chosen.view is not View.UNKNOWN or view is View.UNKNOWN:
        return study
    notes = tuple(note for note in study.chosen.notes if note != _VIEW_NOTES[View.UNKNOWN])
    image = _noted(dataclasses.replace(study.chosen, view=view, view_source="manifest", notes=notes))
    return Study(study.id, (image,), image)


class _GivenIds(IdMaker):
    """Gives one id, whatever is asked for."""

    def __init__(self, record_id: str) -> None:
        super().__init__()
        self._given = record_id

    def of_uid(self, uid: str) -> str:
        return self._given

    def of_secret(self, text: str) -> str:
        return self._given

    def unique(self, name: str) -> str:
        return self._given


def _examine(found: FoundFile | Missing, settings: InputSettings, ids: IdMaker) -> _Accepted | _Lost | Refusal:
    """Return an image, or why there is none."""
    if isinstance(found, Missing):
        return Refusal(ids.unique(found.name), found.error, ())
    try:
        if found.error is not None:
            raise found.error
        if found.kind == "dicom":
            return _examine_dicom(found, settings, ids)
        if found.kind == "picture":
            return _examine_picture(found, settings)
        if found.kind == "directory":
            raise DataError(Reason.NOT_RADIOGRAPH, "a DICOMDIR holds no image", hint="give its folder, or it by itself")
        what = "a zip archive inside another" if found.kind == "zip" else "neither DICOM nor a picture"
        raise DataError(Reason.UNKNOWN_FORMAT, what, expected="DICOM, PNG, JPEG or TIFF")
    except DataError as error:
        name = _secret_name(found.source, settings, ids) if found.may_be_dicom else found.name
        return Refusal(ids.unique(name), error, (found.source,))


def _examine_dicom(found: FoundFile, settings: InputSettings, ids: IdMaker) -> _Accepted | _Lost:
    max_bytes = settings.max_file_mb << 20
    with found.source.open(max_bytes) as stream:
        file = parse_header(stream, max_bytes)
    instance, study = file.text("SOPInstanceUID"), file.text("StudyInstanceUID")
    image_id = _secret_name(found.source, settings, ids) if instance is None else ids.of_uid(instance)
    key = _key(file, found.folder)
    try:
        image = _dicom_image(file, found.source, image_id, settings)
    except DataError as error:
        refusal = Refusal(ids.unique(image_id), error, (found.source,))
        is_film = error.reason not in _NO_FILM
        return _Lost(refusal, key if is_film else None, f"image {image_id} of the study is refused ({error.code})")
    return _Accepted(image, key, image_id if study is None else ids.of_uid(study), instance)


def _key(file: DicomFile, folder: str | None) -> _Key | None:
    """Return what a file shares with the others of its study.

    Without a study UID the folder is the study, if it was walked as one; but a folder of films that name no patient may
    be a whole data set, and then only a folder named as a study says that it is none.
    """
    patient = _patient(file)
    study = file.text("StudyInstanceUID")
    if study is not None:
        return _Key(_UID + study, patient)
    if folder is None or (patient is None and not _STUDY_FOLDER.fullmatch(PurePosixPath(folder).name)):
        return None
    stated = [file.text(keyword) or "" for keyword in ("StudyID", "AccessionNumber", "StudyDate")]
    return _Key("\0".join((f"folder {folder}", *stated)), patient)


def _patient(file: DicomFile) -> str | None:
    """Return what tells patients apart: the ID, or where there is none the name and the date of birth."""
    patient = file.text("PatientID")
    if patient is not None:
        return f"id {patient}"
    stated = [file.text(keyword) or "" for keyword in ("PatientName", "PatientBirthDate")]
    return "\0".join(stated) if any(stated) else None


def _dicom_image(file: DicomFile, source: Source, image_id: str, settings: InputSettings) -> StudyImage:
    findings = judge(file)
    if settings.burned_in_text == "refuse" and states_text(file):
        raise DataError(
            Reason.BURNED_IN_TEXT,
            "the header says that annotations are burned into the pixels",
            expected="no text, as input.burned_in_text asks for",
        )
    check_layout(file, settings)
    return StudyImage(
        id=image_id,
        source=source,
        view=findings.view,
        is_dicom=True,
        is_for_processing=findings.is_for_processing,
        notes=findings.notes,
        settings=settings,
        view_source=None if findings.view is View.UNKNOWN else "header",
        age_group=findings.age_group,
    )


def _examine_picture(found: FoundFile, settings: InputSettings) -> _Accepted:
    with found.source.open(settings.max_file_mb << 20) as stream:
        check_picture(stream, settings)
    key: _Key | None = None
    name, view = found.name, View.UNKNOWN
    if found.folder is not None and _STUDY_FOLDER.fullmatch(PurePosixPath(found.folder).name):
        parent = PurePosixPath(found.name).parent
        key = _Key(f"pictures {found.folder}", None)
        name = PurePosixPath(found.folder).name if parent == PurePosixPath(".") else parent.as_posix()
        view = view_of_words([PurePosixPath(found.name).stem])
    image = StudyImage(
        id=found.name,
        source=found.source,
        view=view,
        is_dicom=False,
        is_for_processing=False,
        notes=(),
        settings=settings,
        view_source=None if view is View.UNKNOWN else "name",
    )
    return _Accepted(image, key, name, None)


class _Studies:
    """Images put together into studies.

    Attributes:
        waiting: from the first study that may still grow on, everything in the order of first files.
    """

    def __init__(self, settings: InputSettings, ids: IdMaker) -> None:
        self._settings, self._ids = settings, ids
        self._groups: dict[_Key, _Group] = {}
        self._patients: Counter[str] = Counter()
        self._lost: dict[_Key, list[str]] = {}
        self.waiting: list[_Group | Refusal | Study] = []

    def take(self, examined: _Accepted | _Lost | Refusal) -> Study | Refusal | None:
        """Put an image into its study; return a result that is finished already."""
        if isinstance(examined, Refusal):
            return examined
        if isinstance(examined, _Lost):
            if examined.key is not None:
                self._lost.setdefault(examined.key, []).append(examined.note)
            return examined.refusal
        image, key = examined.image, examined.key
        if key is None:
            return self.close(_Group(examined.group_name, images=[image]))
        group = self._groups.get(key) or self._begin(key, examined.group_name)
        if examined.instance_uid is not None:
            earlier = group.instances.setdefault(examined.instance_uid, image.source)
            if earlier is not image.source and _same_bytes(earlier, image.source, self._settings):
                error = DataError(Reason.DUPLICATE, "the same file was met before")
                return Refusal(self._ids.unique(image.id), error, (image.source,))
        if self._settings.views == "all":
            return _alone(image, self._ids.unique(f"{group.name}/{image.id}" if image.is_dicom else image.id))
        group.images.append(image)
        return None

    def _begin(self, key: _Key, name: str) -> _Group:
        self._patients[key.study] += 1
        number = self._patients[key.study]
        is_shared = number > 1 and key.study.startswith(_UID)
        group = self._groups[key] = _Group(f"{name}#{number}" if is_shared else name, key)
        if self._settings.views == "frontal":
            self.waiting.append(group)
        return group

    def close(self, group: _Group) -> Study | Refusal:
        """Return a group as a study, or as a refusal if all its images are lateral."""
        images = tuple(map(_noted, group.images))
        chosen = best_image(images)
        name = self._ids.unique(group.name)
        if chosen.view is View.LATERAL and chosen.settings.views == "frontal":
            error = DataError(
                Reason.LATERAL_ONLY, "the study has no frontal image", expected="PA or AP", hint="--set input.views=all"
            )
            return Refusal(name, error, tuple(image.source for image in images))
        notes = self._notes(group.key)
        if not notes:
            return Study(name, images, chosen)
        noted = [dataclasses.replace(image, notes=(*image.notes, *notes)) for image in images]
        return Study(name, tuple(noted), noted[images.index(chosen)])

    def _notes(self, key: _Key | None) -> list[str]:
        if key is None:
            return []
        is_shared = key.study.startswith(_UID) and self._patients[key.study] > 1
        shared = ["other images with this study UID name another patient and have a record of their own"]
        return [*self._lost.get(key, []), *(shared if is_shared else [])]


def _alone(image: StudyImage, name: str) -> Study:
    noted = _noted(image)
    return Study(name, (noted,), noted)


def _noted(image: StudyImage) -> StudyImage:
    """Return a DICOM image with a note on a view that leaves doubt; plain pictures never state one."""
    note = _VIEW_NOTES.get(image.view) if image.is_dicom else None
    return image if note is None else dataclasses.replace(image, notes=(*image.notes, note))


def _same_bytes(first: Source, second: Source, settings: InputSettings) -> bool:
    max_bytes = settings.max_file_mb << 20
    try:
        return first.read(max_bytes) == second.read(max_bytes)
    except DataError:
        return False


def _secret_name(source: Source, settings: InputSettings, ids: IdMaker) -> str:
    """Return an id for a file without a UID: of its content, so that it is the same wherever the file lies."""
    try:
        content = hashlib.sha256(source.read(settings.max_file_mb << 20)).hexdigest()
    except DataError:
        content = f"{source.path.absolute()}/{source.member or ''}"
    return ids.of_secret(content)
