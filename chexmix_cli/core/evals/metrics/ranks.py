"""Ranks in both directions from scores that are never in memory at once: they are counted, tile by tile.

A query's rank needs no sorting: it is how many candidates score higher, and how many the same. What is relevant is said
by groups: row r and column c belong together if their group numbers are equal (a pair, the same text, the same labels).

R rows (images), C columns (reports), E vector size. Scores are float64: products of float32 vectors, so added up, do
not depend on the tile they are in, and equal vectors give equal scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.settings.retrieval import TileSettings


class Scores(Protocol):
    """Scores of all rows against all columns, given out in tiles."""

    num_rows: int
    num_columns: int

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """Return the scores of some rows against some columns, (rows, columns) float64."""

    def aligned(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the score of each row with the column of the same index, (n,) float64."""


class CosineScores:
    """Cosines of vectors.

    Args:
        rows_RE, columns_CE: float32, possibly views of a file; of any lengths above 0.
    """

    def __init__(self, rows_RE: Tensor, columns_CE: Tensor) -> None:
        self.num_rows, self.num_columns = len(rows_RE), len(columns_CE)
        self._rows_RE, self._columns_CE = rows_RE, columns_CE

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        return _unit(self._rows_RE[rows]) @ _unit(self._columns_CE[columns]).T

    def aligned(self, rows: Tensor, columns: Tensor) -> Tensor:
        return (_unit(self._rows_RE[rows]) * _unit(self._columns_CE[columns])).sum(dim=1)


class MatrixScores:
    """Scores computed before, (R, C), possibly a view of a file."""

    def __init__(self, score_RC: Tensor) -> None:
        self.num_rows, self.num_columns = score_RC.shape
        self._score_RC = score_RC

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        return self._score_RC[rows][:, columns].double()

    def aligned(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self._score_RC[rows, columns].double()


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of each query's best relevant candidate, from 1; NaN where it has none.

    Attributes:
        rows_R: of rows among the columns, float64.
        columns_C: of columns among the rows.
    """

    rows_R: NDArray[np.float64]
    columns_C: NDArray[np.float64]


def rank(
    scores: Scores, row_group_R: NDArray[np.int64], column_group_C: NDArray[np.int64], tiles: TileSettings
) -> Ranks:
    """Return the ranks of both directions.

    Args:
        scores: of rows against columns.
        row_group_R, column_group_C: relevant are those of the same number.
        tiles: sizes, and how near two scores count as equal.

    With ``r`` relevant candidates that share the best relevant score and ``e`` others that have it too, ``g`` higher:
    the rank is that of the first relevant one when ties stand in random order, ``g + 1 + e / (r + 1)``. With one
    relevant candidate that is the middle of the tie.
    """
    with memory_errors("ranking", "--set tiles.rows=256"):
        rows_R, columns_C = torch.from_numpy(row_group_R), torch.from_numpy(column_group_C)
        sides = _best_relevant(scores, rows_R, columns_C, tiles)
        row_side, column_side = (_Side(best, tiles.tie_tolerance) for best in sides)
        is_paired = _is_paired(rows_R) and _is_paired(columns_C)
        for rows, columns in _tiles(scores, tiles):
            tile_RC = scores.tile(rows, columns)
            is_relevant_RC = None if is_paired else rows_R[rows, None] == columns_C[None, columns]
            row_side.count(rows, tile_RC, is_relevant_RC, dim=1)
            column_side.count(columns, tile_RC, is_relevant_RC, dim=0)
        return Ranks(row_side.ranks(is_paired), column_side.ranks(is_paired))


def precision(
    scores: Scores,
    row_group_R: NDArray[np.int64],
    column_group_C: NDArray[np.int64],
    depths: tuple[int, ...],
    tiles: TileSettings,
) -> NDArray[np.float64]:
    """Return each row's share of relevant columns among its first K, for each K, (R, depths) float64.

    Where a tie crosses the border, its candidates count by the share of them that is inside. For the other direction
    turn the scores around (:class:`Turned`). Memory: a tile's rows against all columns.

    Args:
        scores: of rows against columns; K is at most the number of columns.
        row_group_R, column_group_C: relevant are those of the same number.
        depths: the Ks.
        tiles: sizes, and how near two scores count as equal.
    """
    groups_R, groups_C = torch.from_numpy(row_group_R), torch.from_numpy(column_group_C)
    found = np.empty((scores.num_rows, len(depths)))
    for start in range(0, scores.num_rows, tiles.rows):
        rows = slice(start, start + tiles.rows)
        score_RC = scores.tile(rows, slice(None))
        is_relevant_RC = groups_R[rows, None] == groups_C
        for number, depth in enumerate(depths):
            found[rows, number] = _precision(score_RC, is_relevant_RC, depth, tiles.tie_tolerance).numpy()
    return found


class Turned:
    """Scores with rows and columns exchanged."""

    def __init__(self, scores: Scores) -> None:
        self.num_rows, self.num_columns = scores.num_columns, scores.num_rows
        self._scores = scores

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        return self._scores.tile(columns, rows).T

    def aligned(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self._scores.aligned(columns, rows)


def random_recall(num_relevant: NDArray[np.int64], num_candidates: int, depth: int) -> float:
    """Return the recall at K of a random order: the chance that one of a query's relevant candidates is in the first K.

    With one relevant candidate that is K / N. Source: hypergeometric, ``1 - C(N - r, K) / C(N, K)``.
    """
    depth = min(depth, num_candidates)
    none = np.ones(len(num_relevant))
    for taken in range(depth):
        none *= np.clip(num_candidates - num_relevant - taken, 0, None) / (num_candidates - taken)
    return float((1 - none).mean())


def _unit(vectors_NE: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors_NE.double(), dim=1)


def _precision(score_RC: Tensor, is_relevant_RC: Tensor, depth: int, tolerance: float) -> Tensor:
    border_R1 = score_RC.topk(depth, dim=1).values[:, -1:]
    is_inside_RC = score_RC > border_R1 + tolerance
    is_tied_RC = (score_RC >= border_R1 - tolerance) & ~is_inside_RC
    num_inside_R, num_tied_R = is_inside_RC.sum(dim=1), is_tied_RC.sum(dim=1)
    share_R = (depth - num_inside_R).double() / num_tied_R
    num_hits_R = (is_inside_RC & is_relevant_RC).sum(dim=1) + share_R * (is_tied_RC & is_relevant_RC).sum(dim=1)
    return num_hits_R / depth


def _tiles(scores: Scores, tiles: TileSettings) -> Iterator[tuple[slice, slice]]:
    for row in range(0, scores.num_rows, tiles.rows):
        for column in range(0, scores.num_columns, tiles.columns):
            yield slice(row, row + tiles.rows), slice(column, column + tiles.columns)


def _is_paired(groups: Tensor) -> bool:
    return len(groups.unique()) == len(groups)


def _best_relevant(
    scores: Scores, row_group_R: Tensor, column_group_C: Tensor, tiles: TileSettings
) -> tuple[Tensor, Tensor]:
    """Return the highest score of each row, and of each column, with what is relevant to it; -inf if nothing is."""
    best_R = torch.full((scores.num_rows,), -torch.inf, dtype=torch.float64)
    best_C = torch.full((scores.num_columns,), -torch.inf, dtype=torch.float64)
    if _is_paired(row_group_R) and _is_paired(column_group_C):
        # One candidate a query: no need to look at all scores for it.
        _, row_n, column_n = np.intersect1d(row_group_R.numpy(), column_group_C.numpy(), return_indices=True)
        for start in range(0, len(row_n), tiles.columns):
            one = torch.from_numpy(row_n[start : start + tiles.columns])
            other = torch.from_numpy(column_n[start : start + tiles.columns])
            best_R[one] = best_C[other] = scores.aligned(one, other)
        return best_R, best_C
    for rows, columns in _tiles(scores, tiles):
        is_relevant_RC = row_group_R[rows, None] == column_group_C[None, columns]
        if not bool(is_relevant_RC.any()):
            continue
        tile_RC = scores.tile(rows, columns).masked_fill(~is_relevant_RC, -torch.inf)
        best_R[rows] = torch.maximum(best_R[rows], tile_RC.amax(dim=1))
        best_C[columns] = torch.maximum(best_C[columns], tile_RC.amax(dim=0))
    return best_R, best_C


class _Side:
    """Counts of one direction: candidates above the best relevant score, and level with it."""

    def __init__(self, best_N: Tensor, tolerance: float) -> None:
        self._has_relevant_N = best_N > -torch.inf
        self._upper_N, self._lower_N = best_N + tolerance, best_N - tolerance
        self._num_above_N, self._num_from_level_N, self._num_relevant_N = torch.zeros(
            3, len(best_N), dtype=torch.int64
        ).unbind()

    def count(self, place: slice, tile_RC: Tensor, is_relevant_RC: Tensor | None, *, dim: int) -> None:
        """Add a tile; ``dim`` is the one of the candidates."""
        # A tile's counts fit 32 bits, and are added up several times as fast in them.
        is_level_RC = tile_RC >= self._lower_N[place].unsqueeze(dim)
        is_above_RC = tile_RC > self._upper_N[place].unsqueeze(dim)
        self._num_above_N[place] += is_above_RC.sum(dim=dim, dtype=torch.int32)
        self._num_from_level_N[place] += is_level_RC.sum(dim=dim, dtype=torch.int32)
        if is_relevant_RC is not None:
            self._num_relevant_N[place] += (is_level_RC & is_relevant_RC).sum(dim=dim, dtype=torch.int32)

    def ranks(self, is_paired: bool) -> NDArray[np.float64]:
        """Return the ranks, (N,), from 1 and NaN without a relevant candidate.

        Args:
            is_paired: each has one relevant candidate, which is among those at its level.
        """
        num_relevant_N = torch.ones_like(self._num_above_N) if is_paired else self._num_relevant_N
        num_others_N = (self._num_from_level_N - self._num_above_N - num_relevant_N).double()
        ranks_N = self._num_above_N + 1 + num_others_N / (num_relevant_N + 1)
        return torch.where(self._has_relevant_N, ranks_N, torch.nan).numpy()
