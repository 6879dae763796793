"""``chexmix retrieve index``: the images and reports of a manifest, or of token shards, into an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, RunOptions
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.settings.retrieval import IndexSettings
from chexmix_cli.library.jobs.job import Record, raiser

if TYPE_CHECKING:
    from chexmix_cli.core.infer.retrieval.index_writer import IndexWriter
    from chexmix_cli.core.infer.retrieval.vector_index import Item, Kind
    from chexmix_cli.core.settings.retrieval import IndexSettings
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.jobs.job import Job
    from chexmix_cli.library.opened import OpenModel
    from chexmix_cli.library.retrieval import RetrievalModel

Source = Annotated[
    str, typer.Argument(metavar="MANIFEST|SHARDS|-", help="A manifest, a folder of token shards, or records on stdin.")
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="INDEX", help="Folder of the index; an existing one is added to.", show_default=False
    ),
]
Only = Annotated[
    str | None, typer.Option("--only", metavar="KIND", help="images or reports. Default: both, where there are both.")
]
Split = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Only rows of this split.")]
WithText = Annotated[
    bool,
    typer.Option("--with-text", help="Keep the reports' text too: it is shown by queries and read by their scorer."),
]

#: How much of a file tells it from another one of the same size.
_DIGEST_BYTES = 1 << 16


@command(IndexSettings, *MODEL, "is_json", "fail_fast", "with_paths", "quarantine")
def index(
    call: Call[IndexSettings],
    source: Source,
    out: Out,
    only: Only = None,
    split: Split = None,
    with_text: WithText = False,
) -> int:
    """Embed images and reports into an index that can be searched.

    An existing index is added to: what it holds is skipped, so the same command resumes where one was
    interrupted. It belongs to one model and takes no other's vectors. Without --with-text it holds no report.

    Examples:

        chexmix retrieve index manifest.jsonl -o index

        chexmix tokenize new/ | chexmix retrieve index - -o index --only images
    """
    if only not in (None, "images", "reports"):
        raise SettingsError(f"is {only!r}", where="--only", expected="images or reports")
    kinds: tuple[Kind, ...] = (
        ("images", "reports") if only is None else ("images",) if only == "images" else ("reports",)
    )
    return _run(source, out, call.options, call.settings, kinds, split, with_text)


def _run(
    source: str,
    out: Path,
    run: RunOptions,
    settings: IndexSettings,
    kinds: tuple[Kind, ...],
    split: str | None,
    with_text: bool,
) -> int:
    from chexmix_cli.commands.records.runner import Loop
    from chexmix_cli.commands.records.sinks import Sinks
    from chexmix_cli.core.infer.retrieval.index_writer import IndexWriter
    from chexmix_cli.core.infer.retrieval.vector_index import IndexIdentity
    from chexmix_cli.library.retrieval import RetrievalModel

    model = run.open_model(settings.input)
    found = RetrievalModel(model, settings.embedding)
    identity = IndexIdentity(**found.identity(), with_text=with_text, with_codes=settings.store.codes)
    rows = _rows(source, model, found, split, keep_uids=run.keep_uids)
    with Sinks(run) as sinks, IndexWriter(out, identity, rows=settings.store.rows) as writer:
        indexer = _Indexer(found, writer, kinds, with_text=with_text, with_codes=settings.store.codes)
        loop = Loop(
            process=indexer.process,
            describe=lambda record: f"{record['id']}: {', '.join(record['indexed']) or 'was there already'}",
            batch_size=settings.input.batch_size,
            sinks=sinks,
            workers=settings.input.workers,
        )
        tally = loop.run(indexer.jobs(rows), "index")
    return tally.exit_code


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the source: its image's job, and its text as token ids (None if it has none)."""

    job: Job[Film]
    text: list[int] | None


@dataclass(slots=True)
class _Plan:
    """What is to be done for a row."""

    image_digest: int | None = None
    text_digest: int | None = None
    text: list[int] | None = None


class _Indexer:
    """Turns rows into items of the index."""

    def __init__(
        self,
        found: RetrievalModel,
        writer: IndexWriter,
        kinds: tuple[Kind, ...],
        *,
        with_text: bool,
        with_codes: bool,
    ) -> None:
        self._found, self._writer, self._kinds = found, writer, kinds
        self._with_text, self._with_codes = with_text, with_codes
        #: By id, of rows in the loop and those done: an id occurs once.
        self._plans: dict[str, _Plan] = {}

    def jobs(self, rows: Iterator[_Row]) -> Iterator[Job[Film]]:
        """Yield a job for each row; one that needs no image has none to prepare."""
        from chexmix_cli.library.films import Film

        for row in rows:
            try:
                plan = self._plan(row)
            except DataError as error:
                yield replace(row.job, prepare=raiser(error), can_travel=False)
                continue
            self._plans[row.job.id] = plan
            if plan.image_digest is not None:
                yield row.job
            else:
                yield replace(row.job, prepare=partial(Film, row.job.id, None, None), can_travel=False)

    def process(self, films: list[Film]) -> list[Record]:
        """Embed what a batch of rows lacks and add it; nothing is added if any of it fails."""
        from chexmix_cli.core.infer.retrieval.vector_index import Item
        from chexmix_cli.library.films import encode_films

        plans = {film.id: self._plans[film.id] for film in films}
        imaged = [film for film in films if plans[film.id].image_digest is not None]
        texts = {item_id: plan.text for item_id, plan in plans.items() if plan.text is not None}
        codes = encode_films(imaged, self._found.model.images)
        image_BE = self._found.embedder.images(codes)
        text_BE = self._found.embedder.reports(list(texts.values()))
        new: dict[Kind, list[Item]] = {"images": [], "reports": []}
        for film, vector_E, image in zip(imaged, image_BE, codes, strict=True):
            digest = plans[film.id].image_digest
            assert digest is not None
            new["images"].append(Item(film.id, vector_E, digest, image if self._with_codes else None))
        for (item_id, text), vector_E in zip(texts.items(), text_BE, strict=True):
            digest = plans[item_id].text_digest
            assert digest is not None
            new["reports"].append(Item(item_id, vector_E, digest, text if self._with_text else None))
        for kind, found in new.items():
            for item in found:
                self._writer.add(kind, item)
        added = {kind: {item.id for item in found} for kind, found in new.items()}
        return [{"indexed": [kind for kind in added if film.id in added[kind]]} for film in films]

    def _plan(self, row: _Row) -> _Plan:
        from chexmix_cli.core.infer.retrieval.index_writer import digest_of

        if row.job.id in self._plans:
            raise DataError(Reason.DUPLICATE, "the id occurs twice", expected="an id for each image")
        plan = _Plan()
        if "images" in self._kinds:
            digest = digest_of(_image_content(row.job))
            if not self._writer.holds("images", row.job.id, digest):
                plan.image_digest = digest
        if "reports" in self._kinds:
            if row.text is None and self._kinds == ("reports",):
                raise DataError(Reason.BAD_RECORD, "has no text", expected="the section that is indexed")
            if row.text is not None:
                digest = digest_of(" ".join(map(str, row.text)).encode())
                if not self._writer.holds("reports", row.job.id, digest):
                    plan.text, plan.text_digest = row.text, digest
        return plan


def _image_content(job: Job[Film]) -> bytes:
    """Return what tells an image from another one: its codes, or the beginning of its file and the file's size."""
    line = job.line or {}
    if "codes" in line:
        return str(line["codes"]).encode()
    path = Path(str(line.get("file", "")))
    try:
        with path.open("rb") as file:
            return f"{path.stat().st_size} ".encode() + file.read(_DIGEST_BYTES)
    except OSError:
        return b""  # reading the image will say what is wrong


def _rows(
    source: str, model: OpenModel, found: RetrievalModel, split: str | None, *, keep_uids: bool
) -> Iterator[_Row]:
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
) -> Iterator[_Row]:
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
            yield _Row(replace(job, prepare=raiser(error), can_travel=False), None)
            continue
        row = ManifestRow(id=job.id, file=Path(), findings=sections["findings"], impression=sections["impression"])
        text = section_text(row, found.settings.section)
        yield _Row(job, None if text is None else found.tokenizer.encode(text))


def _shard_rows(folder: Path, model: OpenModel, found: RetrievalModel, split: str | None) -> Iterator[_Row]:
    from chexmix_cli.core.data.shards import ShardSet
    from chexmix_cli.core.weights.fingerprint import known_tokenizer_hash
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.jobs.job import Job

    shards = ShardSet.open(folder)
    hashes: dict[str, Any] = {"codebook_hash": model.weights.codebook_hash, "preset_hash": model.preset.hash}
    recorded = shards.identity.text_tokenizer_hash
    shards.require(**hashes, text_tokenizer_hash=known_tokenizer_hash(recorded, model.weights.path))
    section = found.settings.section
    if section != "both":
        raise SettingsError(
            f"is {section!r}", where="embedding.section", expected="both: token shards hold whole reports"
        )

    def rows() -> Iterator[_Row]:
        for row in shards:
            if split is None or row.entry.get("split") == split:
                codes = row.codes.tolist()
                job: Job[Film] = Job(row.id, partial(Film, row.id, None, codes), line={"codes": codes})
                yield _Row(job, row.text.tolist() or None)

    return rows()
