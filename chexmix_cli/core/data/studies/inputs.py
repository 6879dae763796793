"""From inputs to studies: every file ends in exactly one study or refusal, in the order of first files.

Headers are read here, pixels are not. Grouping needs the whole list: from the first DICOM file on, results come after
the last header; before it, and with ``input.views = "all"``, at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.dicom.decode import check_layout
from chexmix_cli.core.data.dicom.file import DicomFile, parse_header
from chexmix_cli.core.data.dicom.triage import judge
from chexmix_cli.core.data.images.pictures import check_picture
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.data.studies.study import Refusal, Study, StudyImage, best_image, load_pixels
from chexmix_cli.core.data.studies.walking import FoundFile, Missing, is_directory_file, walk_inputs
from chexmix_cli.core.data.views import View, view_of_words
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

__all__ = ["Refusal", "Study", "StudyImage", "discover", "load_pixels", "study_of_file"]

#: Folders that name a study, as in MIMIC-CXR and CheXpert.
_STUDY_FOLDER = re.compile(r"s\d{8}|study\d+", re.IGNORECASE)
_VIEW_NOTES = {
    View.UNKNOWN: "the view is not stated; taken for frontal",
    View.OTHER: "the view is neither frontal nor lateral",
}


@dataclass(slots=True)
class _Group:
    """Images of one study, as they come in. ``name`` is its id before it is made unique."""

    name: str
    images: list[StudyImage] = field(default_factory=list)
    instances: dict[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """An image and the study it belongs to; no key is a study of its own."""

    image: StudyImage
    group_key: str | None
    group_name: str
    instance_uid: str | None


def discover(inputs: Sequence[str], settings: InputSettings, *, keep_uids: bool = False) -> Iterator[Study | Refusal]:
    """Yield the studies that inputs lead to, and a refusal for what cannot be used.

    Args:
        inputs: files, folders (walked), globs, zip archives.
        settings: bounds, and ``views``: one record a study, or one an image.
        keep_uids: name DICOM studies by their UID instead of a salted hash.

    Raises:
        MachineError: if the salt of ids can be neither read nor made.
    """
    ids = IdMaker(keep_uids=keep_uids)
    slots: list[_Group | Refusal | Study] = []
    groups: dict[str, _Group] = {}
    for found in walk_inputs(inputs, settings):
        examined = _examine(found, settings, ids)
        result = _join(examined, groups, slots, settings, ids) if isinstance(examined, _Accepted) else examined
        if result is None:
            continue
        if slots:
            slots.append(result)
        else:
            yield result
    for slot in slots:
        yield _close(slot, ids) if isinstance(slot, _Group) else slot


def study_of_file(path: Path, settings: InputSettings, record_id: str) -> Study | Refusal:
    """Return one file as a study of its own under a given id, as a manifest's or a record's line names it."""
    source = Source(path)
    try:
        found = FoundFile(source, record_id, source.kind(), None)
    except DataError as error:
        return Refusal(record_id, error, (source,))
    result = _examine(found, settings, _GivenIds(record_id))
    if result is None:
        return Refusal(record_id, DataError(Reason.NOT_RADIOGRAPH, "a DICOMDIR holds no image"), (source,))
    if isinstance(result, Refusal):
        return result
    if settings.views == "all":
        return _alone(result.image, record_id)
    return _close(_Group(record_id, [result.image]), _GivenIds(record_id))


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


def _examine(found: FoundFile | Missing, settings: InputSettings, ids: IdMaker) -> _Accepted | Refusal | None:
    """Return an image or a refusal; None for a DICOMDIR, whose files are found by themselves."""
    if isinstance(found, Missing):
        return Refusal(ids.unique(found.name), found.error, ())
    try:
        if found.error is not None:
            raise found.error
        if found.kind == "dicom":
            return _examine_dicom(found, settings, ids)
        if found.kind == "picture":
            return _examine_picture(found, settings)
        what = "a zip archive inside another" if found.kind == "zip" else "neither DICOM nor a picture"
        raise DataError(Reason.UNKNOWN_FORMAT, what, expected="DICOM, PNG, JPEG or TIFF")
    except DataError as error:
        name = _secret_name(found.source, settings, ids) if found.may_be_dicom else found.name
        return Refusal(ids.unique(name), error, (found.source,))


def _examine_dicom(found: FoundFile, settings: InputSettings, ids: IdMaker) -> _Accepted | Refusal | None:
    max_bytes = settings.max_file_mb << 20
    with found.source.open(max_bytes) as stream:
        file = parse_header(stream, max_bytes)
    if is_directory_file(file.media_class):
        return None
    instance, study = file.text("SOPInstanceUID"), file.text("StudyInstanceUID")
    image_id = _secret_name(found.source, settings, ids) if instance is None else ids.of_uid(instance)
    try:
        image = _dicom_image(file, found.source, image_id, settings)
    except DataError as error:
        return Refusal(ids.unique(image_id), error, (found.source,))
    if study is not None:
        return _Accepted(image, f"uid {study}", ids.of_uid(study), instance)
    # Without a study UID the folder is the study, if it was walked as one.
    key = None if found.folder is None else f"folder {found.folder}"
    return _Accepted(image, key, image_id, instance)


def _dicom_image(file: DicomFile, source: Source, image_id: str, settings: InputSettings) -> StudyImage:
    findings = judge(file)
    check_layout(file, settings)
    return StudyImage(
        id=image_id,
        source=source,
        view=findings.view,
        is_dicom=True,
        is_for_processing=findings.is_for_processing,
        notes=findings.notes,
        settings=settings,
    )


def _examine_picture(found: FoundFile, settings: InputSettings) -> _Accepted:
    with found.source.open(settings.max_file_mb << 20) as stream:
        check_picture(stream, settings)
    key, name, view = None, found.name, View.UNKNOWN
    if found.folder is not None and _STUDY_FOLDER.fullmatch(PurePosixPath(found.folder).name):
        parent = PurePosixPath(found.name).parent
        key = f"pictures {found.folder}"
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
    )
    return _Accepted(image, key, name, None)


def _join(
    accepted: _Accepted,
    groups: dict[str, _Group],
    slots: list[_Group | Refusal | Study],
    settings: InputSettings,
    ids: IdMaker,
) -> Study | Refusal | None:
    """Put an image into its group; return a result that is finished already."""
    image, key = accepted.image, accepted.group_key
    if key is None:
        return _close(_Group(accepted.group_name, [image]), ids)
    group = groups.get(key)
    if group is None:
        group = groups[key] = _Group(accepted.group_name)
        if settings.views == "frontal":
            slots.append(group)
    if accepted.instance_uid is not None:
        earlier = group.instances.setdefault(accepted.instance_uid, image.source)
        if earlier is not image.source and _same_bytes(earlier, image.source, settings):
            error = DataError(Reason.DUPLICATE, "the same file was met before")
            return Refusal(ids.unique(image.id), error, (image.source,))
    if settings.views == "all":
        return _alone(image, ids.unique(f"{group.name}/{image.id}" if image.is_dicom else image.id))
    group.images.append(image)
    return None


def _close(group: _Group, ids: IdMaker) -> Study | Refusal:
    """Return a group as a study, or as a refusal if all its images are lateral."""
    images = tuple(group.images)
    chosen = best_image(images)
    name = ids.unique(group.name)
    if chosen.view is View.LATERAL and chosen.settings.views == "frontal":
        error = DataError(
            Reason.LATERAL_ONLY, "the study has no frontal image", expected="PA or AP", hint="--set input.views=all"
        )
        return Refusal(name, error, tuple(image.source for image in images))
    noted = _noted(chosen)
    return Study(name, tuple(noted if image is chosen else image for image in images), noted)


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
