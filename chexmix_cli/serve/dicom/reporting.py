"""A study's folder to its result and documents, through the library, as ``chexmix generate-report`` does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import ChexmixError
from chexmix_cli.core.files import atomic_write, write_json
from chexmix_cli.core.settings.inference import DocumentKind, DocumentSettings
from chexmix_cli.library.documents import ENDINGS, DocumentMaker
from chexmix_cli.library.jobs.batches import run_batches
from chexmix_cli.library.jobs.job import Record
from chexmix_cli.library.results import error_code
from chexmix_cli.serve.dicom.queue import DOCUMENTS, FILMS, RESULT

if TYPE_CHECKING:
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.reports import Reporter


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a study.

    Attributes:
        num_reports: written, their documents in its folder.
        refused: code and message of each image or part that gave none.
    """

    num_reports: int
    refused: list[dict[str, str]]


class StudyReporter:
    """Reports on studies in folders of the queue, one at a time.

    Args:
        reporter: writes the reports.
        settings: of the documents made of them, DICOM all.

    Raises:
        WeightsError: if the weights have no text tokenizer: there would be nothing to send.
    """

    def __init__(self, reporter: Reporter, settings: DocumentSettings) -> None:
        self._reporter, self._documents = reporter, DocumentMaker(reporter, settings)
        self._reader = reporter.model.reader(keeps_picture=self._documents.needs_picture)

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
        """Yield the record of every report and every refusal; the documents of a report are written before."""
        jobs = self._reader.jobs([str(study / FILMS)])
        batches = run_batches(jobs, self._process, batch_size=1, workers=self._reporter.model.input.workers)
        for number, (job, found) in enumerate(batches, start=1):
            if isinstance(found, ChexmixError):
                error = {"code": error_code(found), "message": found.with_hint}
                yield {"id": job.id, "status": "error", "error": error}
                continue
            record, documents = found
            for kind, content in documents.items():
                with atomic_write(study / DOCUMENTS / f"{number:03}{ENDINGS[kind]}") as file:
                    file.write(content)
            yield record

    def _process(self, films: list[Film]) -> list[tuple[Record, dict[DocumentKind, bytes]]]:
        provenance, found = self._reporter.model.provenance(seed=self._reporter.seed), []
        for result in self._reporter(films):
            record = {"id": result.id, "status": "ok", **result.fields(), "provenance": provenance}
            found.append((record, self._documents(result, record)))
        return found
