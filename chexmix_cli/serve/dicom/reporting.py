"""A study's folder to its result and documents, through the library, as ``chexmix generate-report`` does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.data.dicom.file import parse_header
from chexmix_cli.core.errors import ChexmixError, WeightsError
from chexmix_cli.core.files import atomic_write, write_json
from chexmix_cli.library.jobs.batches import run_batches
from chexmix_cli.library.jobs.job import Record
from chexmix_cli.library.results import error_code
from chexmix_cli.serve.dicom.queue import DOCUMENTS, FILMS, RESULT

if TYPE_CHECKING:
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.opened import OpenModel
    from chexmix_cli.library.reports import Reporter


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a study.

    Attributes:
        num_documents: made, and in its folder; 0 if none of its images gave a report.
        refused: code and message of each image or part that gave none.
    """

    num_documents: int
    refused: list[dict[str, str]]


class StudyReporter:
    """Reports on studies in folders of the queue, one at a time.

    Args:
        model: in use.
        reporter: of the same model.
        seed: for the provenance of records.

    Raises:
        WeightsError: if the weights have no text tokenizer: there would be nothing to put into a document.
    """

    def __init__(self, model: OpenModel, reporter: Reporter, *, seed: int) -> None:
        if model.tokenizer is None:
            raise WeightsError("has no text tokenizer: there are no reports to send", where=str(model.weights.path))
        self._model, self._reporter, self._seed = model, reporter, seed
        self._reader = model.reader()

    def __call__(self, study: Path) -> Outcome:
        """Put documents, then the result, into a study's folder; what is there already is not made again."""
        result = study / RESULT
        if not result.exists():
            records = list(self._records(study))
            write_json(result, {"records": records})
        records = json.loads(result.read_text(encoding="utf-8"))["records"]
        refused = [record["error"] for record in records if record["status"] == "error"]
        return Outcome(len(records) - len(refused), refused)

    def _records(self, study: Path) -> Iterator[Record]:
        """Yield the record of every report and every refusal; the document of a report is written before."""
        jobs = self._reader.jobs([str(study / FILMS)])
        batches = run_batches(jobs, self._process, batch_size=1, workers=self._model.input.workers)
        for number, (job, found) in enumerate(batches, start=1):
            if isinstance(found, ChexmixError):
                error = {"code": error_code(found), "message": found.with_hint}
                yield {"id": job.id, "status": "error", "error": error}
                continue
            record, document = found
            with atomic_write(study / DOCUMENTS / f"{number:03}.dcm") as file:
                file.write(document)
            yield record

    def _process(self, films: list[Film]) -> list[tuple[Record, bytes]]:
        """Return the record of each film and its structured report, of the patient that the film's header names."""
        from chexmix_cli.core.present.documents.header import Maker, StudyHeader, document_bytes
        from chexmix_cli.core.present.documents.text_report import text_sr

        weights, max_bytes, found = self._model.weights, self._model.input.max_file_mb << 20, []
        provenance = self._model.provenance(seed=self._seed)
        for result in self._reporter(films):
            record = {"id": result.id, "status": "ok", **result.fields(), "provenance": provenance}
            source = result.film.source
            assert source is not None  # it came from a file of the queue
            with source.open(max_bytes) as stream:
                header = StudyHeader.of_file(parse_header(stream, max_bytes))
            maker = Maker(model=weights.name, weights_hash=weights.fingerprint, at=datetime.now().astimezone())
            found.append((record, document_bytes(text_sr(record, header, maker))))
        return found
