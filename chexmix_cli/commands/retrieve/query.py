"""``chexmix retrieve query``: the nearest images or reports of an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.records.streams import check_arguments
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, RunOptions
from chexmix_cli.commands.shared.wrapping import draw_table
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.settings.retrieval import QuerySettings
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from torch import Tensor

    from chexmix_cli.commands.records.record_page import RecordPage
    from chexmix_cli.core.infer.retrieval.vector_index import Kind, VectorIndex
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.opened import OpenModel
    from chexmix_cli.library.retrieval import RetrievalModel

Index = Annotated[Path, typer.Argument(metavar="INDEX", help="A folder of `chexmix retrieve index`.")]
Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[IN]", help="Films: files, folders, globs, zip archives, or - for records on stdin."),
]
Text = Annotated[
    list[str] | None, typer.Option("--text", metavar="T", help="Query by this text instead; may be repeated.")
]
Count = Annotated[int, typer.Option("-k", metavar="K", min=1, help="How many results a query gives.")]
Find = Annotated[
    str | None,
    typer.Option(
        "--find", metavar="KIND", help="images or reports. Default: reports for a film, images for a text, if there."
    ),
]
ScorerName = Annotated[
    str, typer.Option("--scorer", metavar="NAME", help="cosine, or likelihood: re-ranks the best by cosine.")
]


@command(QuerySettings, *MODEL, "is_json", "fail_fast", "keep_uids", "with_paths", "quarantine", "html")
def query(
    call: Call[QuerySettings],
    index: Index,
    inputs: Inputs = None,
    text: Text = None,
    count: Count = 10,
    find: Find = None,
    scorer: ScorerName = "cosine",
) -> int:
    """Find the reports or images of an index that are nearest to a film, or to a text.

    One record for each query, with ids and scores, best first. A score is a cosine; with `--scorer likelihood`, the
    mean log-probability of the text's tokens given the image, less what `likelihood.minus` says.

    Examples:

        chexmix retrieve query index film.png -k 5

        chexmix retrieve query index --text "No pleural effusion." -k 5 --find images
    """
    for name, value, choices in (
        ("--find", find, ("images", "reports")),
        ("--scorer", scorer, ("cosine", "likelihood")),
    ):
        if value is not None and value not in choices:
            raise SettingsError(f"is {value!r}", where=name, expected=" or ".join(choices))
    if text and inputs:
        raise SettingsError("cannot be combined with films", where="--text", expected="one of the two")
    films = [] if text else check_arguments(inputs)
    return _run(index, films, text or [], call.options, call.settings, _Wanted(count, find, scorer == "likelihood"))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the flags ask for."""

    count: int
    find: str | None
    is_likelihood: bool


def _run(
    folder: Path,
    films: list[str],
    texts: list[str],
    run: RunOptions,
    settings: QuerySettings,
    wanted: _Wanted,
) -> int:
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.commands.records.record_page import with_films
    from chexmix_cli.commands.records.runner import Loop
    from chexmix_cli.commands.records.sinks import Sinks
    from chexmix_cli.core.infer.retrieval.vector_index import VectorIndex
    from chexmix_cli.library.jobs.job import Job

    index = VectorIndex.open(folder)
    model = run.open_model(settings.input)
    with Sinks(run, command="retrieve query") as sinks:
        searcher = _Searcher(index, model, settings, wanted, is_text=bool(texts), page=sinks.page)
        common: dict[str, Any] = {"describe": searcher.describe, "batch_size": settings.input.batch_size}
        if texts:
            jobs = (Job(f"text-{number}", _given(text)) for number, text in enumerate(texts, start=1))
            return Loop(process=searcher.of_texts, sinks=sinks, **common).run(jobs, "queries").exit_code
        process = with_films(searcher.of_films, sinks.page, model.images)
        found = Loop(process=process, sinks=sinks, workers=settings.input.workers, **common)
        return found.run(film_jobs(films, model.reader(keep_uids=run.keep_uids)), "queries").exit_code


def _given(text: str) -> Callable[[], str]:
    return lambda: text


class _Searcher:
    """Answers queries of one kind from one index."""

    def __init__(
        self,
        index: VectorIndex,
        model: OpenModel,
        settings: QuerySettings,
        wanted: _Wanted,
        *,
        is_text: bool,
        page: RecordPage | None = None,
    ) -> None:
        self._index, self._settings, self._wanted, self._page = index, settings, wanted, page
        self._kind = _kind(index, wanted.find, is_text=is_text)
        self._model = self._open(model, is_text=is_text)
        self._ids = index.ids(self._kind)
        self._scorer = None
        if wanted.is_likelihood:
            from chexmix_cli.core.infer.likelihood import ReportScorer

            if is_text == (self._kind == "reports"):
                raise SettingsError(
                    f"is likelihood, from a {'text' if is_text else 'film'} to {self._kind}",
                    where="--scorer",
                    expected="cosine: likelihood compares a film with a report",
                )
            likelihood = settings.likelihood
            self._scorer = ReportScorer(
                self._model.decoder,
                model.weights.settings.vocabulary,
                minus=likelihood.minus,
                batch_size=likelihood.batch_size,
                prefixes=model.prefixes,
            )
        self._gallery: Any = None
        if settings.search.backend == "faiss":
            from chexmix_cli.core.infer.retrieval.search import FaissGallery

            blocks = list(index.blocks(self._kind, settings.search.block_rows))
            self._gallery = FaissGallery(blocks, index.identity.size, settings.search.faiss)

    def of_films(self, films: list[Film]) -> list[Record]:
        """Return what is nearest to each film, whatever was asked before."""
        self._model.model.forget()
        codes = self._model.model.codes_of(films)
        found = self._search(self._model.embedder.images(codes))
        return [self._record(*one, codes=image) for one, image in zip(found, codes, strict=True)]

    def of_texts(self, texts: list[str]) -> list[Record]:
        """Return what is nearest to each text."""
        reports = [self._model.tokenizer.encode(text.strip()) for text in texts]
        found = self._search(self._model.embedder.reports(reports))
        return [self._record(*one, report=report) for one, report in zip(found, reports, strict=True)]

    def describe(self, record: Record) -> str:
        """Return a record as a table."""
        has_text = any("report" in one for one in record["results"])
        columns = ("rank", "id", "score", *(("report",) if has_text else ()))
        rows = [
            (str(one["rank"]), one["id"], f"{one['score']:.4f}", *((one["report"],) if has_text else ()))
            for one in record["results"]
        ]
        return f"{record['id']}: {record['find']} by {record['scorer']}\n\n{draw_table(columns, rows)}\n"

    def _open(self, model: OpenModel, *, is_text: bool) -> RetrievalModel:
        """Return the model as the index was made with it.

        Raises:
            DataError: if it is another one.
        """
        from chexmix_cli.core.settings.retrieval import EmbeddingSettings
        from chexmix_cli.library.retrieval import RetrievalModel

        identity, where = self._index.identity, str(self._index.folder)
        identity.require(where, model_hash=model.weights.fingerprint)
        if not is_text:
            identity.require(where, preset_hash=model.preset.hash)
        settings = EmbeddingSettings(
            image_layer=identity.image_layer,
            text_layer=identity.text_layer,
            is_projected=identity.projection_hash is not None,
        )
        found = RetrievalModel(model, settings)
        identity.require(where, projection_hash=found.projection_hash)
        return found

    def _search(self, query_QE: Tensor) -> list[tuple[list[float], list[int]]]:
        from chexmix_cli.core.infer.retrieval.search import nearest

        likelihood, count = self._settings.likelihood, self._wanted.count
        if self._scorer is not None:
            count = max(count, likelihood.top) if likelihood.top else len(self._ids)
        if self._gallery is not None:
            score_QK, place_QK = self._gallery.nearest(query_QE, count)
        else:
            blocks = self._index.blocks(self._kind, self._settings.search.block_rows)
            score_QK, place_QK = nearest(query_QE, blocks, count)
        return list(zip(score_QK.tolist(), place_QK.tolist(), strict=True))

    def _record(
        self, scores: list[float], places: list[int], *, codes: list[int] | None = None, report: list[int] | None = None
    ) -> Record:
        # An approximate index fills up with -1 where it found no more.
        found = [(score, place) for score, place in zip(scores, places, strict=True) if place >= 0]
        if self._scorer is not None:
            candidates = [self._tokens(place) for _, place in found]
            if codes is not None:
                scores = self._scorer.score(codes, candidates)
            else:
                assert report is not None
                scores = [self._scorer.score(image, [report])[0] for image in candidates]
            found = sorted(
                ((score, place) for score, (_, place) in zip(scores, found, strict=True)),
                key=lambda one: (-one[0], one[1]),
            )
        results = []
        for rank, (score, place) in enumerate(found[: self._wanted.count], start=1):
            result: Record = {"rank": rank, "id": self._ids[place], "score": score}
            if self._page is not None and self._kind == "images" and self._index.identity.with_codes:
                shown_BYX = self._model.model.images.decode([self._tokens(place)])
                self._page.show_found(self._ids[place], shown_BYX[0])
            if self._kind == "reports" and self._index.identity.with_text:
                result["report"] = self._model.tokenizer.decode(self._tokens(place))
            results.append(result)
        scorer = "cosine" if self._scorer is None else "likelihood"
        return {"find": self._kind, "scorer": scorer, "results": results}

    def _tokens(self, place: int) -> list[int]:
        return self._index.tokens(self._kind, place, self._model.model.weights.settings.vocabulary)


def _kind(index: VectorIndex, find: str | None, *, is_text: bool) -> Kind:
    """Return what is looked for: what was asked for, else the other kind than the query's, else the same.

    Raises:
        DataError: if the index has none of it.
    """
    order: tuple[Kind, ...] = ("images", "reports") if is_text else ("reports", "images")
    for kind in order:
        if find in (None, kind) and index.count(kind):
            return kind
    raise DataError(
        Reason.NOT_FOUND,
        f"holds no {find or 'vectors'}",
        where=str(index.folder),
        hint="`chexmix retrieve index` adds some",
    )
