"""A report as a DICOM structured report of text alone: Basic Text SR (PS3.3 A.35.1) by template TID 2000 (PS3.16).

A section of the report is a container with a heading of CID 7001 and one text inferred from the film. A draft stays
UNVERIFIED and PRELIMINARY; it is PARTIAL where the model did not come to an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from chexmix_cli.core.data.dicom.file import quiet
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.present.documents.header import (
    MANUFACTURER,
    Maker,
    StudyHeader,
    code,
    finish_document,
    new_document,
)
from chexmix_cli.core.text.disclaimer import GENERATED
from chexmix_cli.core.text.sections import split_sections

Name = tuple[str, str, str]

#: Name of a section -> its heading (CID 7001) and the name of its text (CID 7002). What stands before the first
#: heading, the whole report where it has none, is a summary.
SECTIONS: Mapping[str, tuple[Name, Name]] = {
    "findings": (("59776-5", "LN", "Findings"), ("121071", "DCM", "Finding")),
    "impression": (("19005-8", "LN", "Impressions"), ("121073", "DCM", "Impression")),
    "comparison": (("55114-3", "LN", "Prior Procedure Descriptions"), ("121065", "DCM", "Procedure Description")),
    "indication": (("18785-6", "LN", "Indications for Procedure"), ("11329-0", "LN", "History")),
    "technique": (("55111-9", "LN", "Current Procedure Descriptions"), ("121065", "DCM", "Procedure Description")),
    "recommendation": (("18783-1", "LN", "Recommendations"), ("121075", "DCM", "Recommendation")),
    "notification": (("73568-8", "LN", "Communication of Critical Results"), ("55112-7", "LN", "Summary")),
    "addendum": (("55107-7", "LN", "Addendum"), ("55112-7", "LN", "Summary")),
    "wet_read": (("55110-1", "LN", "Conclusions"), ("121077", "DCM", "Conclusion")),
    "preamble": (("55112-7", "LN", "Summary"), ("55112-7", "LN", "Summary")),
}
#: Heading and name of the text that says what the document is.
COMMENT: Name = ("121106", "DCM", "Comment")

TITLE: Name = ("43468-8", "LN", "X-Ray Report")
_CHEST: Name = ("816094009", "SCT", "Chest")
#: Modalities of radiographs that CID 29 has; others are left out.
_RADIOGRAPHY = {"CR": "Computed Radiography", "DX": "Digital Radiography"}
#: Why decoding stopped, of reports that are not whole (``core/infer/reports/engine.py: ReportFinish``).
_CUT = ("length", "room")
#: Control characters that text must not hold (PS3.5 6.1.3); a line ends in CR LF.
_CONTROLS = dict.fromkeys((*range(9), 11, *range(14, 32), *range(127, 160)), "\ufffd")


@quiet()
def text_sr(record: Mapping[str, Any], study: StudyHeader, maker: Maker) -> Dataset:
    """Return a record's report as Basic Text SR, finished: ``header.document_bytes`` makes the file of it.

    Args:
        record: of ``chexmix generate-report``, with ``id`` and ``report``.
        study: whose it is.
        maker: who made it.

    Raises:
        DataError: if the record has no report, or the source's header cannot be written.
    """
    sections = report_sections(record)
    dataset = new_document(study, maker, BasicTextSRStorage, "SR", "Draft report, unverified")
    describe_draft(dataset, study, maker, is_whole=record.get("finish") not in _CUT)
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ConceptNameCodeSequence = [code(*TITLE)]
    dataset.ContentTemplateSequence = [_template("2000")]
    dataset.ContentSequence = [
        *_modifiers(study),
        *_observer(maker),
        *(_section(*SECTIONS[name], text, study) for name, text in sections),
        _section(COMMENT, COMMENT, _comment(record), None),
    ]
    return finish_document(dataset, record)


def report_sections(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the sections of a record's report that have text, in order, as ``split_sections`` names them.

    Raises:
        DataError: if there is none.
    """
    report = record.get("report")
    found = [(name, text) for name, text in split_sections(report) if text] if isinstance(report, str) else []
    if not found:
        what = "the report is empty" if isinstance(report, str) else "no report"
        raise DataError(Reason.BAD_RECORD, what, expected="a record of `chexmix generate-report` with a report")
    return found


def describe_draft(dataset: Dataset, study: StudyHeader, maker: Maker, *, is_whole: bool) -> None:
    """Add what a structured report says of itself and of its evidence (SR Document General, PS3.3 C.17.2)."""
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.PerformedProcedureCodeSequence = []
    dataset.CompletionFlag = "COMPLETE" if is_whole else "PARTIAL"
    dated = "the work" if maker.at is not None else "the study" if study.dated else "nothing: the study is undated"
    dataset.CompletionFlagDescription = f"AI draft; content date is that of {dated}"
    dataset.VerificationFlag, dataset.PreliminaryFlag = "UNVERIFIED", "PRELIMINARY"
    if study.image is not None:
        series, evidence = Dataset(), Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = study.image.series, [_reference(study)]
        evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence = study.study_uid, [series]
        dataset.CurrentRequestedProcedureEvidenceSequence = [evidence]


def _modifiers(study: StudyHeader) -> list[Dataset]:
    """Return what the title leaves open (TID 2000, rows 2 to 5): procedure, modality, body part, language."""
    found = [
        _coded("HAS CONCEPT MOD", ("121058", "DCM", "Procedure reported"), item)
        for item in study.elements.get("ProcedureCodeSequence", [])
    ]
    if study.modality in _RADIOGRAPHY:
        modality = code(study.modality, "DCM", _RADIOGRAPHY[study.modality])
        found.append(_coded("HAS CONCEPT MOD", ("122142", "DCM", "Acquisition Device Type"), modality))
    found.append(_coded("HAS CONCEPT MOD", ("123014", "DCM", "Target Region"), code(*_CHEST)))
    language = ("121049", "DCM", "Language of Content Item and Descendants")
    return [*found, _coded("HAS CONCEPT MOD", language, code("en", "RFC5646", "English"))]


def _observer(maker: Maker) -> list[Dataset]:
    """Return the device that observed (TID 1002 and 1004): this programme, with its weights as serial number."""
    device = _item("HAS OBS CONTEXT", "UIDREF", ("121012", "DCM", "Device Observer UID"))
    device.UID = maker.device_uid
    texts = (
        (("121013", "DCM", "Device Observer Name"), MANUFACTURER),
        (("121014", "DCM", "Device Observer Manufacturer"), MANUFACTURER),
        (("121015", "DCM", "Device Observer Model Name"), maker.model),
        (("121016", "DCM", "Device Observer Serial Number"), maker.weights_hash),
    )
    observer = _coded("HAS OBS CONTEXT", ("121005", "DCM", "Observer Type"), code("121007", "DCM", "Device"))
    return [observer, device, *(_text("HAS OBS CONTEXT", name, value) for name, value in texts)]


def _section(heading: Name, name: Name, text: str, study: StudyHeader | None) -> Dataset:
    """Return a container with one text; with a study, inferred from its film."""
    item = _text("CONTAINS", name, text)
    if study is not None and study.image is not None:
        film = _item("INFERRED FROM", "IMAGE", ("121112", "DCM", "Source of Measurement"))
        film.ReferencedSOPSequence = [_reference(study)]
        item.ContentSequence = [film]
    container = _item("CONTAINS", "CONTAINER", heading)
    container.ContinuityOfContent = "SEPARATE"
    container.ContentSequence = [item]
    return container


def _comment(record: Mapping[str, Any]) -> str:
    """Return what the document is, and what a reader of the report has to know besides."""
    return "\n".join([f"{GENERATED}.", *(f"Conflict: {one}." for one in record.get("conflicts", []))])


def _reference(study: StudyHeader) -> Dataset:
    assert study.image is not None
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = study.image.sop_class, study.image.instance
    return item


def _template(identifier: str) -> Dataset:
    item = Dataset()
    item.MappingResource, item.TemplateIdentifier = "DCMR", identifier
    return item


def _item(relationship: str, value_type: str, name: Name) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = relationship, value_type, [code(*name)]
    return item


def _coded(relationship: str, name: Name, value: Dataset) -> Dataset:
    item = _item(relationship, "CODE", name)
    item.ConceptCodeSequence = [value]
    return item


def _text(relationship: str, name: Name, text: str) -> Dataset:
    item = _item(relationship, "TEXT", name)
    item.TextValue = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS).replace("\n", "\r\n")
    return item
