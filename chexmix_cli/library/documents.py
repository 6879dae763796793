"""Reports to the documents a hospital keeps: DICOM structured reports, PDF, picture, FHIR, under the film's own header.

They name patient and study as the film's file does, and are for whoever may read the film.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import WeightsError, missing_package
from chexmix_cli.core.settings.inference import DocumentKind, DocumentSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.core.present.documents.header import Maker, StudyHeader
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.reports import Reporter, StudyReport

#: How a file's name ends, behind the record's id.
ENDINGS: Mapping[DocumentKind, str] = {
    "sr": "-sr.dcm",
    "measurements": "-measurements.dcm",
    "pdf": "-pdf.dcm",
    "picture": "-picture.dcm",
    "fhir": "-fhir.json",
}


class DocumentMaker:
    """Makes the documents of one model's reports.

    Args:
        reporter: wrote the reports.
        settings: which kinds, and how they are dated.

    Raises:
        WeightsError: if a kind shows what the weights cannot give.
        MachineError: if a kind needs a package that is not installed.
    """

    def __init__(self, reporter: Reporter, settings: DocumentSettings) -> None:
        self._reporter, self._settings, self.kinds = reporter, settings, settings.kinds
        model = reporter.model
        where = str(model.weights.path)
        if model.tokenizer is None:
            raise WeightsError("has no text tokenizer, which documents need", where=where)
        if "measurements" in settings.kinds:
            if model.head is None:
                raise WeightsError("has no head of findings, which documents of kind measurements need", where=where)
            if find_spec("highdicom") is None:
                raise missing_package("highdicom", "clinical")

    @property
    def needs_picture(self) -> bool:
        """Return whether films have to keep the picture they were read as."""
        return "pdf" in self._settings.kinds

    @property
    def maker(self) -> Maker:
        """Return who makes a document now."""
        from chexmix_cli.core.present.documents.header import Maker

        weights = self._reporter.model.weights
        at = datetime.now() if self._settings.dates == "run" else None
        return Maker(model=weights.name, weights_hash=weights.fingerprint, at=at)

    def __call__(self, result: StudyReport, record: Mapping[str, Any]) -> dict[DocumentKind, bytes]:
        """Return the files of a report by kind.

        Args:
            result: the report.
            record: the same as it is written.

        Raises:
            DataError: if the report is empty, or the film's header names no study or cannot be written.
        """
        study, maker = self._study(result), self.maker
        return {kind: self._document(kind, result, {"id": result.id, **record}, study, maker) for kind in self._kinds}

    @property
    def _kinds(self) -> tuple[DocumentKind, ...]:
        return tuple(dict.fromkeys(self._settings.kinds))

    def _document(
        self, kind: DocumentKind, result: StudyReport, record: Mapping[str, Any], study: StudyHeader, maker: Maker
    ) -> bytes:
        from chexmix_cli.core.present.documents.capture import picture_capture
        from chexmix_cli.core.present.documents.fhir import diagnostic_report
        from chexmix_cli.core.present.documents.header import document_bytes
        from chexmix_cli.core.present.documents.measurements import measurement_sr
        from chexmix_cli.core.present.documents.pdf import encapsulated_pdf
        from chexmix_cli.core.present.documents.text_report import text_sr

        if kind == "fhir":
            return (json.dumps(diagnostic_report(record, study, maker), indent=2, ensure_ascii=False) + "\n").encode()
        if kind == "sr":
            dataset = text_sr(record, study, maker)
        elif kind == "measurements":
            dataset = measurement_sr(record, study, maker)
        elif kind == "pdf":
            dataset = encapsulated_pdf(record, study, maker, self._levels(result))
        else:
            dataset = picture_capture(record, study, maker, self._reporter.pixels(result))
        return document_bytes(dataset)

    def _levels(self, result: StudyReport) -> NDArray[np.uint8]:
        """Return the film as it was read, or as the model was given it where only that is there."""
        import numpy as np

        from chexmix_cli.library.films import film_levels

        if result.film.picture is not None:
            return np.asarray(result.film.picture)
        return film_levels(result.film, result.codes, self._reporter.model.images)

    def _study(self, result: StudyReport) -> StudyHeader:
        """Return what the film's file says of patient and study; of anything but DICOM a study of its own."""
        from chexmix_cli.core.data.dicom.file import parse_header
        from chexmix_cli.core.present.documents.header import StudyHeader

        film, max_bytes = result.film, self._reporter.model.input.max_file_mb << 20
        if film.source is not None and film.source.kind() == "dicom":
            with film.source.open(max_bytes) as stream:
                return StudyHeader.of_file(parse_header(stream, max_bytes))
        return StudyHeader.fresh(_key(film, result.codes, max_bytes))


def _key(film: Film, codes: list[int], max_bytes: int) -> bytes:
    """Return what tells a film without a header from all others: its file, or its codes and id."""
    if film.source is not None:
        return hashlib.sha256(film.source.read(max_bytes)).digest()
    return json.dumps([film.id, codes]).encode()
