"""Where an evaluation's scores come from: files of vectors or scores, an index, or the likelihood of text given image.

N pairs, n of a pool, E vector size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.evals.metrics.ranks import CosineScores, MatrixScores, Scores
from chexmix_cli.core.evals.retrieval.protocol import PoolScores, SubsetScores
from chexmix_cli.core.infer.retrieval.search import best
from chexmix_cli.core.infer.retrieval.vector_index import VectorIndex

#: Pairs whose scores against each other are held as a matrix.
_MOST_SCORED = 2000
_ROWS_CHECKED = 256
#: Lifts scored candidates above those that were not: cosines are in [-1, 1], log-probabilities a few hundred at most.
_ABOVE = 1e4


def pools_of(scores: Scores) -> PoolScores:
    """Return the scores of any pool, from those of all pairs."""

    def of(pool: NDArray[np.int64]) -> tuple[Scores, Scores]:
        found = scores if len(pool) == scores.num_rows else SubsetScores(scores, pool, pool)
        return found, found

    return of


def read_scores(path: Path) -> tuple[list[str], Scores]:
    """Return the ids of the pairs of a file, and their scores; the file is mapped, not read.

    The file is safetensors with ``images`` and ``texts``, vectors (N, E) compared by cosine, or with ``scores``
    (N, N), images against texts; and, in its header under ``ids``, the pairs' ids as a JSON list (else 0, 1, ...).

    Raises:
        DataError: if it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names & {"images", "texts", "scores"}}
    except (SafetensorError, OSError) as error:
        raise DataError(Reason.CORRUPT, f"cannot be read ({error})", where=path.name) from None
    scores: Scores
    if set(tensors) == {"images", "texts"} and all(tensor.ndim == 2 for tensor in tensors.values()):
        scores = CosineScores(tensors["images"], tensors["texts"])
    elif set(tensors) == {"scores"} and tensors["scores"].ndim == 2:
        scores = MatrixScores(tensors["scores"])
    else:
        raise DataError(
            Reason.BAD_RECORD,
            f"holds tensors {', '.join(sorted(names)) or 'none'}",
            where=path.name,
            expected="images and texts (N, E), or scores (N, N)",
        )
    if scores.num_rows != scores.num_columns or not scores.num_rows:
        raise DataError(
            Reason.BAD_RECORD,
            f"{scores.num_rows} images and {scores.num_columns} texts",
            where=path.name,
            expected="pairs: as many of each",
        )
    # A block at a time: a file of scores may be larger than memory.
    blocks = (block for tensor in tensors.values() for block in tensor.split(_ROWS_CHECKED))
    if not all(bool(torch.isfinite(block).all()) for block in blocks):
        raise DataError(Reason.BAD_RECORD, "holds numbers that are not finite", where=path.name)
    return _ids(metadata.get("ids"), scores.num_rows, path.name), scores


def index_pairs(index: VectorIndex) -> tuple[list[str], Tensor, Tensor]:
    """Return the ids of an index that has both an image and a report of, and their vectors, each (N, E).

    Raises:
        DataError: if there are none.
    """
    places = {item_id: place for place, item_id in enumerate(index.ids("reports"))}
    pairs = [(place, item_id) for place, item_id in enumerate(index.ids("images")) if item_id in places]
    if not pairs:
        raise DataError(
            Reason.NOT_FOUND, "no id has both an image and a report", where=str(index.folder), expected="pairs"
        )
    images = index.vectors("images")[[place for place, _ in pairs]]
    reports = index.vectors("reports")[[places[item_id] for _, item_id in pairs]]
    return [item_id for _, item_id in pairs], images, reports


class LikelihoodPools:
    """Scores of pools whose best candidates by cosine are put into the order of their likelihoods.

    Args:
        cosines: of all pairs.
        score: gives the likelihood scores of some reports, by their indices, given the image at an index.
        top: candidates of a query that are scored; 0 is all.
        progress: called with (images done, images in all) of a pool.
    """

    def __init__(
        self,
        cosines: Scores,
        score: Callable[[int, Sequence[int]], list[float]],
        *,
        top: int,
        progress: Callable[[int, int | None], None],
    ) -> None:
        self._cosines, self._score, self._top, self._progress = cosines, score, top, progress

    def __call__(self, pool: NDArray[np.int64]) -> tuple[Scores, Scores]:
        """Return the scores of a pool's images against its reports, to rank reports by and to rank images by.

        Raises:
            SettingsError: if the pool is larger than a matrix of it should be.
        """
        count = len(pool)
        if count > _MOST_SCORED:
            raise SettingsError(
                f"the likelihood of {count} pairs",
                where="scorer",
                expected=f"pools of at most {_MOST_SCORED}",
                hint="--set pool.size=100",
            )
        cosine_nn = SubsetScores(self._cosines, pool, pool).tile(slice(None), slice(None))
        top = min(self._top or count, count)
        is_report_nn = _among_best(cosine_nn, top)
        is_image_nn = _among_best(cosine_nn.T, top).T
        likelihood_nn = torch.zeros_like(cosine_nn)
        for row in range(count):
            wanted = torch.nonzero(is_report_nn[row] | is_image_nn[row])[:, 0]
            found = self._score(int(pool[row]), [int(pool[column]) for column in wanted.tolist()])
            likelihood_nn[row, wanted] = torch.tensor(found, dtype=torch.float64)
            self._progress(row + 1, count)
        lifted = [
            MatrixScores(torch.where(is_scored_nn, likelihood_nn + _ABOVE, cosine_nn))
            for is_scored_nn in (is_report_nn, is_image_nn)
        ]
        return lifted[0], lifted[1]


def _among_best(score_RC: Tensor, count: int) -> Tensor:
    """Return whether each score is among the best of its row, (R, C) bool."""
    _, places_RK = best(score_RC, count)
    return torch.zeros_like(score_RC, dtype=torch.bool).scatter_(1, places_RK, True)


def _ids(text: str | None, count: int, where: str) -> list[str]:
    if text is None:
        return [str(number) for number in range(count)]
    try:
        ids = json.loads(text)
    except ValueError:
        ids = None
    is_list = isinstance(ids, list) and all(isinstance(one, str) for one in ids)
    if not is_list or len(set(ids)) != count or len(ids) != count:
        raise DataError(
            Reason.BAD_RECORD, "the header's ids are not a list", where=where, expected=f"{count} different texts"
        )
    found: list[str] = ids
    return found
