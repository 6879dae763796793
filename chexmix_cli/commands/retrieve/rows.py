"""The rows that an index is made of: of a manifest, of token shards, or of records on stdin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.library.jobs.job import Job, raiser

if TYPE_CHECKING:
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.opened import OpenModel
    from chexmix_cli.library.retrieval import RetrievalModel


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the source: its image's job, and its text as token ids (None if it has none)."""

    job: Job[Film]
    text: list[int] | None


def read_rows(
    source: str, model: OpenModel, found: RetrievalModel, split: str | None, *, keep_uids: bool
) -> Iterator[Row]:
    """Return the rows of a source; what is wrong with the source itself is raised at once."""
    from chexmix_cli.core.data.shards.files import SET_FILE

    path = Path(source)
    if source != "-" and (path / SET_FILE).is_file():
        return _shard_rows(path, model, found, split)
    if source != "-" and not path.is_file():
        raise DataError(
            Reason.NOT_FOUND,
            "no such manifest or shards",
            where=path.name,
            expected="JSON Lines, or a folder of shards",
        )
    return _line_rows(source, model, found, split, keep_uids=keep_uids)


def _line_rows(
    source: str, model: OpenModel, found: RetrievalModel, split: str | None, *, keep_uids: bool
) -> Iterator[Row]:
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
    from chexmix_cli.core.infer.retrieval.embedder import section_text

    reader = model.reader(keep_uids=keep_uids)

    def of_manifest() -> Iterator[Job[Film]]:
        for row in read_manifest(Path(source), split=split):
            texts = {"findings": row.findings, "impression": row.impression, "split": row.split}
            yield reader.record_job({"id": row.id, "file": str(row.file), **texts})

    for job in film_jobs(["-"], reader) if source == "-" else of_manifest():
        line = job.line or {}
        if split is not None and line.get("split") != split:
            continue
        sections = {name: line.get(name) for name in ("findings", "impression")}
        if not all(isinstance(text, str | None) for text in sections.values()):
            error = DataError(Reason.BAD_RECORD, "a section is no text", expected="a text or null")
            yield Row(replace(job, prepare=raiser(error), can_travel=False), None)
            continue
        row = ManifestRow(id=job.id, file=Path(), findings=sections["findings"], impression=sections["impression"])
        text = section_text(row, found.settings.section)
        yield Row(job, None if text is None else found.tokenizer.encode(text))


def _shard_rows(folder: Path, model: OpenModel, found: RetrievalModel, split: str | None) -> Iterator[Row]:
    from chexmix_cli.core.data.shards import ShardSet
    from chexmix_cli.core.weights.fingerprint import known_tokenizer_hash
    from chexmix_cli.library.films import Film

    shards = ShardSet.open(folder)
    hashes: dict[str, Any] = {"codebook_hash": model.weights.codebook_hash, "preset_hash": model.preset.hash}
    recorded = shards.identity.text_tokenizer_hash
    shards.require(**hashes, text_tokenizer_hash=known_tokenizer_hash(recorded, model.weights.path))
    section = found.settings.section
    if section != "both":
        raise SettingsError(
            f"is {section!r}", where="embedding.section", expected="both: token shards hold whole reports"
        )

    def rows() -> Iterator[Row]:
        for row in shards:
            if split is None or row.entry.get("split") == split:
                codes, text = row.codes.tolist(), row.text.tolist()
                job: Job[Film] = Job(row.id, partial(Film, row.id, None, codes), line={"codes": codes, "text": text})
                yield Row(job, text or None)

    return rows()
