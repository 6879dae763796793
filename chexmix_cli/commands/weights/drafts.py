"""``chexmix weights drafts``: what usually follows what in reports, for the drafts of ``generate-report``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.core.errors import ExitCode, WeightsError, counted
from chexmix_cli.core.settings.inference import DraftIndexSettings
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.core.data.report_files import ReportText

Reports = Annotated[
    list[Path],
    typer.Argument(metavar="REPORTS", help="Reports: manifests, JSON Lines, ReXrank JSON, CSV or TSV."),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="FILE", help="File to write; a model uses drafts.safetensors of its weights directory."
    ),
]


@command(DraftIndexSettings, "weights", "is_json")
def drafts(
    call: Call[DraftIndexSettings],
    reports: Reports,
    out: Out,
) -> int:
    """Index what usually follows in reports, so that similar reports are decoded in fewer passes.

    The file holds token ids that the reports of several patients share, and whoever has the model's text tokenizer can
    read such pieces from it: keep the file of private reports as you keep the reports. It changes no report, only how
    fast it is there.

    Examples:

        chexmix weights drafts manifest.jsonl -o WEIGHTS/drafts.safetensors --weights WEIGHTS

        chexmix weights drafts reports.csv more.jsonl -o mine.safetensors --set drafts.min_patients=10
    """
    from chexmix_cli.core.weights import open_weights
    from chexmix_cli.core.weights.draft_index import DraftIndex

    found = open_weights(call.options.weights)
    tokenizer, digest = found.load_text_tokenizer(), found.text_tokenizer_hash
    if tokenizer is None or digest is None:
        raise WeightsError("has no text tokenizer", where=str(found.path), expected="one that the reports are cut by")
    without: list[str] = []
    ids = ((patient, tokenizer.encode(text)) for patient, text in _texts(reports, without))
    index = DraftIndex.build(ids, found.settings.vocabulary, call.settings.drafts, tokenizer=digest)
    index.save(out)
    if without:
        call.console.note(f"left out, as they have no report: {counted(len(without), 'record')}")
    record: Record = {
        "id": str(out),
        "status": "ok",
        "num_reports": index.info.num_reports,
        "num_contexts": len(index),
        "num_bytes": out.stat().st_size,
        "num_without_report": len(without),
        "min_patients": index.info.min_patients,
        "tokenizer_hash": digest,
    }
    shared = f"what {record['num_reports']} reports say of {record['min_patients']} patients or more"
    Writer(call.options.is_json).write(
        record, f"{out}: {len(index)} contexts, {record['num_bytes'] / 1024:.0f} KiB; {shared}"
    )
    return ExitCode.DONE


def _texts(paths: Sequence[Path], without: list[str]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield whose each report is, and its text; ids of records without one are put into a list."""
    from chexmix_cli.core.data.report_files import read_reports

    for path in paths:
        for report in read_reports(path, prefers="reference"):
            text = _whole(report)
            if text:
                yield ("", report.patient) if report.patient is not None else (str(path), report.id), text
            else:
                without.append(report.id)


def _whole(report: ReportText) -> str:
    """Return a report as models write it: its sections with their headings, as in training, or its one text."""
    parts = (("FINDINGS", report.findings), ("IMPRESSION", report.impression))
    sections = [f"{heading}: {text.strip()}" for heading, text in parts if text and text.strip()]
    return "\n".join(sections) or (report.report or "").strip()
