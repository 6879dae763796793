"""Structured reports back to text: ours, and others whose headings are CID 7001's or words that reports use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.dicom.file import DicomFile, parse_header
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.present.documents.header import record_id
from chexmix_cli.core.present.documents.text_report import COMMENT, SECTIONS
from chexmix_cli.core.text.sections import HEADINGS

#: Largest file read, in bytes; pixels are not.
_MAX_BYTES = 512 << 20
_PREAMBLE = "preamble"
_SECTION_OF_CODE = {names[0][:2]: section for section, names in SECTIONS.items()}
_SECTION_OF_WORD = {heading: section for section, headings in HEADINGS.items() for heading in headings}


def is_sr(path: Path) -> bool:
    """Return whether a path of reports is one of structured reports: a folder of them, or a DICOM file."""
    return path.is_dir() or (path.is_file() and Source(path).kind() == "dicom")


def sr_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the structured reports of a folder and its folders, or that of a file, as records with their files' names.

    Of a folder, documents without the text of a report are passed over: pictures, PDF, measurements. A patient is a
    salted hash.

    Raises:
        DataError: if there is no structured report, or a DICOM file cannot be read.
    """
    ids, has_found = IdMaker(), False
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file() or Source(file).kind() != "dicom":
            continue
        try:
            with Source(file).open(_MAX_BYTES) as stream:
                source = parse_header(stream, _MAX_BYTES)
            if path.is_dir() and not report_texts(source):
                continue
            record = read_text_sr(source)
        except DataError as error:
            raise DataError(
                error.reason, error.what, where=file.name, expected=error.expected, hint=error.hint
            ) from None
        patient = source.text("PatientID")
        yield file.name, record | ({} if patient is None else {"patient": ids.of_secret(patient)})
        has_found = True
    if not has_found:
        raise DataError(Reason.NOT_FOUND, "no structured report", where=path.name, expected="DICOM SR with text")


def read_text_sr(source: DicomFile) -> dict[str, Any]:
    """Return a structured report's texts as the fields of a record.

    ``report`` has every section as ``HEADING: text``, in order, which is how our models write reports; ``findings`` and
    ``impression`` stand beside it where the document has them. ``id`` is the record's if the document is one of ours,
    else the Study Instance UID.

    Args:
        source: the file, its header at least.

    Raises:
        DataError: if it holds no structured report, or none with a text.
    """
    if source.text("ValueType") != "CONTAINER":
        raise DataError(Reason.BAD_RECORD, "no structured report", expected="DICOM SR (Basic Text, Enhanced, ...)")
    sections = report_texts(source)
    if not sections:
        raise DataError(Reason.BAD_RECORD, "no text in the structured report", expected="a heading with a text")
    found: dict[str, Any] = {"id": record_id(source.dataset) or source.text("StudyInstanceUID")}
    found["report"] = "\n".join(
        text if name == _PREAMBLE else f"{name.replace('_', ' ').upper()}: {text}" for name, text in sections
    )
    for part in ("findings", "impression"):
        texts = [text for name, text in sections if name == part]
        if texts:
            found[part] = "\n".join(texts)
    return found


def report_texts(source: DicomFile) -> list[tuple[str, str]]:
    """Return the sections of a structured report that have text, in order, as ``split_sections`` names them."""
    found = groupby(_texts(source, None), key=lambda one: one[0])
    return [(section, "\n".join(text for _, text in texts)) for section, texts in found]


def _texts(container: DicomFile, section: str | None) -> Iterator[tuple[str, str]]:
    """Yield section and text of every text that a container contains, in it or in its containers."""
    for item in container.items("ContentSequence"):
        names = item.items("ConceptNameCodeSequence")
        name = (names[0].text("CodeValue"), names[0].text("CodingSchemeDesignator")) if names else (None, None)
        if item.text("RelationshipType") != "CONTAINS" or name == COMMENT[:2]:
            continue
        if item.text("ValueType") == "CONTAINER":
            word = (names[0].text("CodeMeaning") or "").lower() if names else ""
            yield from _texts(item, _SECTION_OF_CODE.get(name) or _SECTION_OF_WORD.get(word) or section)  # type: ignore[arg-type]
        elif item.text("ValueType") == "TEXT":
            text = str(item.value("TextValue") or "").replace("\r\n", "\n").strip()
            if text:
                yield section or _PREAMBLE, text
