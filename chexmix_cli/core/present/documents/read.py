"""Structured reports back to text: ours, and others whose headings are those of CID 7001."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chexmix_cli.core.data.dicom.file import DicomFile
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.present.documents.header import record_id
from chexmix_cli.core.present.documents.text_report import COMMENT, SECTIONS

_SECTION_OF = {heading[:2]: name for name, (heading, _) in SECTIONS.items()}


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
    sections = list(_sections(source))
    if not sections:
        raise DataError(Reason.BAD_RECORD, "no text in the structured report", expected="a heading with a text")
    found: dict[str, Any] = {"id": record_id(source.dataset) or source.text("StudyInstanceUID")}
    found["report"] = "\n".join(text if name == "preamble" else f"{name.upper()}: {text}" for name, text in sections)
    for part in ("findings", "impression"):
        texts = [text for name, text in sections if name == part]
        if texts:
            found[part] = "\n".join(texts)
    return found


def _sections(container: DicomFile) -> Iterator[tuple[str, str]]:
    """Yield name and text of each section below a container; of unknown headings, too, under the name of the text."""
    for item in container.items("ContentSequence"):
        names = item.items("ConceptNameCodeSequence")
        coded = (names[0].text("CodeValue"), names[0].text("CodingSchemeDesignator")) if names else (None, None)
        if item.text("ValueType") != "CONTAINER" or coded == COMMENT[:2]:
            continue
        name = _SECTION_OF.get(coded)  # type: ignore[arg-type]
        if name is None:
            yield from _sections(item)
            continue
        texts = [str(leaf.value("TextValue") or "") for leaf in item.items("ContentSequence")]
        text = "\n".join(part.replace("\r\n", "\n").rstrip() for part in texts if part.strip())
        if text:
            yield name, text
