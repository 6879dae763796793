"""Retrieval of a manifest, an index or saved scores: recalls and ranks in both directions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.settings.retrieval import RetrievalEvaluationSettings
from chexmix_cli.library.evaluation.rows import EvaluationOptions, ProgressBar, failed_items

if TYPE_CHECKING:
    from torch import Tensor

    from chexmix_cli.core.data.manifest import ManifestRow
    from chexmix_cli.core.evals.metrics.ranks import Scores
    from chexmix_cli.core.evals.result import Evaluation
    from chexmix_cli.core.evals.retrieval.protocol import Pairs, PoolScores
    from chexmix_cli.core.settings.choices import Section
    from chexmix_cli.library.opened import OpenModel
    from chexmix_cli.library.retrieval import RetrievalModel

#: Pairs shown on a page, of those found first and of those found last.
_NUM_CASES = 5
_DEFAULTS = EvaluationOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Pairs with their scores.

    Attributes:
        pairs: that are ranked.
        cosines: of all pairs, or the scores of a file.
        scores_of: of any pool.
        protocol: what made the scores.
        model: for the result.
        failed: rows that could not be used.
        num_without_text: rows left out since they have no text to find.
        pictures: gives the PNGs of the images at some indices.
    """

    pairs: Pairs
    cosines: Scores
    scores_of: PoolScores
    protocol: dict[str, str]
    model: dict[str, Any] | None = None
    failed: list[tuple[str, DataError]]
    num_without_text: int = 0
    pictures: Callable[[list[int]], dict[int, bytes]]


def evaluate_retrieval(
    rows: tuple[str, list[ManifestRow]] | None,
    settings: RetrievalEvaluationSettings,
    *,
    model: OpenModel | None = None,
    source: Path | None = None,
    ids: Collection[str] | None = None,
    options: EvaluationOptions = _DEFAULTS,
) -> Evaluation:
    """Return how well reports are found by image and images by report.

    Args:
        rows: a split's name and rows (:func:`evaluation_rows`), or None.
        settings: what is embedded, scored and drawn.
        model: embeds the rows; None where ``source`` is given.
        source: an index, or a file of vectors or scores; the rows, if there are any, say more about its pairs.
        ids: of the whole manifest: scores of other ids are listed. An index may hold more than is asked for.
        options: seed, cases, progress.

    Raises:
        DataError: if there are fewer than two pairs of image and text.
    """
    from chexmix_cli.core.evals.metrics.bootstrap import group_numbers
    from chexmix_cli.core.evals.result import Evaluation
    from chexmix_cli.core.evals.retrieval.cases import chosen_pairs, retrieval_cases
    from chexmix_cli.core.evals.retrieval.protocol import evaluate_pairs

    name, used = ("", []) if rows is None else rows
    if model is not None:
        found = _model_pairs(used, model, settings, options.progress)
    else:
        assert source is not None, "a model, or a source"
        found = _saved_pairs(source, used, ids, settings)
    if len(found.pairs.ids) < 2:
        raise DataError(
            Reason.NOT_FOUND, f"{len(found.pairs.ids)} pairs of image and text", expected="two or more to rank"
        )
    result = evaluate_pairs(found.pairs, found.scores_of, settings, found.protocol, options.seed)
    groups = group_numbers(found.pairs.patients)
    cases = []
    ranks = result.columns.get("rank_image-to-text_pair")
    if options.with_cases and ranks is not None:
        chosen = chosen_pairs(ranks, _NUM_CASES)
        pictures = found.pictures(sorted({place for places in chosen.values() for place in places}))
        cases = retrieval_cases(found.pairs, ranks, found.cosines, pictures, chosen)
    data: dict[str, Any] = {"pairs": len(found.pairs.ids), "patients": len(set(groups.tolist()))}
    if rows is not None:
        data = {"split": name, **data, "rows without text": found.num_without_text}
    if found.pairs.texts is not None:
        data["different texts"] = len({" ".join(text.split()) for text in found.pairs.texts})
    return Evaluation(
        task="retrieval",
        measurements=result.measurements,
        model=found.model,
        data=data,
        item_ids=found.pairs.ids,
        item_groups=groups.tolist(),
        columns=result.columns,
        curves=result.curves,
        cases=cases,
        failed=failed_items(found.failed),
        missing=result.missing,
    )


def _model_pairs(
    rows: list[ManifestRow], model: OpenModel, settings: RetrievalEvaluationSettings, progress: ProgressBar
) -> _Found:
    """Return the manifest's rows, embedded."""
    from chexmix_cli.core.evals.metrics.ranks import CosineScores
    from chexmix_cli.core.evals.retrieval.sources import pools_of
    from chexmix_cli.core.infer.manifest_images import encode_rows
    from chexmix_cli.core.infer.retrieval.embedder import section_text
    from chexmix_cli.library.retrieval import RetrievalModel

    section = settings.embedding.section
    used = [row for row in rows if section_text(row, section) is not None]
    found = RetrievalModel(model, settings.embedding)
    tokenizer = found.tokenizer
    with progress("encode") as move:
        encoded = encode_rows(used, model.images, model.preset, settings.input, progress=move)
    pairs = _pairs([row.id for row in encoded.rows], encoded.rows, section)
    reports = [tokenizer.encode(text) for text in pairs.texts or ()]
    cosines = CosineScores(*_vectors(found, encoded.codes_NP, reports, progress))
    identity = found.identity()
    protocol = {"scorer": settings.scorer, **_protocol(identity)}
    scores_of = pools_of(cosines)
    if settings.scorer == "likelihood":
        scores_of = _likelihood(found, cosines, encoded.codes_NP, reports, settings, progress)
        protocol |= {"top": str(settings.likelihood.top or "all"), "minus": settings.likelihood.minus}

    def pictures(places: list[int]) -> dict[int, bytes]:
        return _pictures([encoded.rows[place] for place in places], places, model)

    return _Found(
        pairs=pairs,
        cosines=cosines,
        scores_of=scores_of,
        protocol=protocol,
        model={name: identity[name] for name in ("model", "model_hash", "projection_hash", "preset", "dtype")},
        failed=encoded.failed,
        num_without_text=len(rows) - len(used),
        pictures=pictures,
    )


def _vectors(
    found: RetrievalModel, codes_NP: Any, reports: list[list[int]], progress: ProgressBar
) -> tuple[Tensor, Tensor]:
    import torch

    images, step = [], 64
    with progress("embed") as move:
        for start in range(0, len(codes_NP), step):
            images.append(found.embedder.images(codes_NP[start : start + step]))
            move(min(start + step, len(codes_NP)), len(codes_NP))
    image_NE = torch.cat(images) if images else torch.empty(0, found.embedder.size)
    return image_NE, found.embedder.reports(reports)


def _likelihood(
    found: RetrievalModel,
    cosines: Scores,
    codes_NP: Any,
    reports: list[list[int]],
    settings: RetrievalEvaluationSettings,
    progress: ProgressBar,
) -> PoolScores:
    from chexmix_cli.core.evals.retrieval.sources import LikelihoodPools
    from chexmix_cli.core.infer.likelihood import ReportScorer

    likelihood = settings.likelihood
    scorer = ReportScorer(
        found.decoder,
        found.model.weights.settings.vocabulary,
        minus=likelihood.minus,
        batch_size=likelihood.batch_size,
        prefixes=found.model.prefixes,
    )

    def score(image: int, places: Any) -> list[float]:
        return scorer.score(codes_NP[image].tolist(), [reports[place] for place in places])

    def pool_scores(pool: Any) -> tuple[Scores, Scores]:
        with progress("score") as move:
            return LikelihoodPools(cosines, score, top=likelihood.top, progress=move)(pool)

    return pool_scores


def _saved_pairs(
    source: Path, rows: list[ManifestRow], manifest_ids: Collection[str] | None, settings: RetrievalEvaluationSettings
) -> _Found:
    """Return the pairs of an index or a file; a manifest says more about them."""
    from chexmix_cli.core.data.studies.ids import unknown_ids
    from chexmix_cli.core.evals.metrics.ranks import CosineScores
    from chexmix_cli.core.evals.retrieval.sources import index_pairs, pools_of, read_scores
    from chexmix_cli.core.infer.retrieval.embedder import section_text
    from chexmix_cli.core.infer.retrieval.vector_index import VectorIndex

    if settings.scorer != "cosine":
        raise SettingsError(
            f"is {settings.scorer}", where="scorer", expected="cosine: likelihood needs a manifest alone"
        )
    model, section = None, settings.embedding.section
    scores: Scores
    if source.is_dir():
        index = VectorIndex.open(source)
        identity = {name: getattr(index.identity, name) for name in index.identity.__slots__}
        protocol, section = {"scorer": "cosine", **_protocol(identity)}, index.identity.section  # type: ignore[assignment]
        model = {name: identity[name] for name in ("model", "model_hash", "projection_hash", "preset", "dtype")}
        ids, images, texts = index_pairs(index)
        scores = CosineScores(images, texts)
    else:
        ids, scores = read_scores(source)
        protocol = {"scorer": "saved"}
    known = {row.id: row for row in rows}
    failed: list[tuple[str, DataError]] = []
    without_text = 0
    if rows:
        with_text = [row.id for row in rows if section_text(row, section) is not None]
        without_text, here = len(rows) - len(with_text), set(ids)
        missing = DataError(Reason.NOT_FOUND, "is not among the scores", expected="a pair for every row of the split")
        failed = [(one, missing) for one in with_text if one not in here]
        if manifest_ids is not None and not source.is_dir():
            failed += unknown_ids(ids, manifest_ids, "no row of the manifest")
        wanted = set(with_text)
        places = [place for place, one in enumerate(ids) if one in wanted]
        scores, ids = _narrowed(scores, places), [ids[place] for place in places]
    return _Found(
        pairs=_pairs(ids, [known[one] for one in ids] if rows else None, section),
        cosines=scores,
        scores_of=pools_of(scores),
        protocol=protocol,
        model=model,
        failed=failed,
        num_without_text=without_text,
        pictures=lambda _: {},
    )


def _narrowed(scores: Scores, places: list[int]) -> Scores:
    import numpy as np

    from chexmix_cli.core.evals.retrieval.protocol import SubsetScores

    if len(places) == scores.num_rows:
        return scores
    chosen = np.array(places, np.int64)
    return SubsetScores(scores, chosen, chosen)


def _pairs(ids: list[str], rows: list[ManifestRow] | None, section: Section) -> Pairs:
    """Return pairs with what their rows say of them, each of which has a text; nothing but ids without rows."""
    from chexmix_cli.core.evals.retrieval.protocol import Pairs
    from chexmix_cli.core.infer.retrieval.embedder import section_text

    if rows is None:
        return Pairs(ids=ids, patients=[None] * len(ids))
    return Pairs(
        ids=ids,
        patients=[row.patient for row in rows],
        texts=[section_text(row, section) or "" for row in rows],
        labels=[row.labels for row in rows],
    )


def _protocol(identity: dict[str, Any]) -> dict[str, str]:
    """Return the fields of a protocol that say how vectors were made."""
    return {
        "text": identity["section"],
        "layers": f"{identity['image_layer']},{identity['text_layer']}",
        "projected": "no" if identity["projection_hash"] is None else "yes",
        "preset": identity["preset"],
        "dtype": identity["dtype"],
    }


def _pictures(rows: list[ManifestRow], places: list[int], model: OpenModel) -> dict[int, bytes]:
    """Return what the model sees of some rows, as PNG."""
    import io

    from PIL import Image

    from chexmix_cli.core.data.images.geometry import to_levels
    from chexmix_cli.core.infer.manifest_images import read_rows

    found = {}
    for place, (_, pixels) in zip(places, read_rows(rows, model.preset, model.input), strict=True):
        if isinstance(pixels, DataError):
            continue  # it could be read before; the case is shown without
        written = io.BytesIO()
        Image.fromarray(to_levels(pixels[0])).save(written, "PNG")
        found[place] = written.getvalue()
    return found
