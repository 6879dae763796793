"""Ranks counted in tiles against an oracle that sorts, with ties and duplicates."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from chexmix_cli.core.evals.metrics.ranks import CosineScores, MatrixScores, Turned, precision, random_recall, rank
from chexmix_cli.core.settings.retrieval import TileSettings

ODD_TILES = [TileSettings(rows=rows, columns=columns) for rows, columns in ((1, 1), (3, 2), (7, 5), (512, 4096))]


def expected_rank(scores, is_relevant):
    """Return the rank of the first relevant candidate, averaged over every order of the ties: by brute force."""
    places = []
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False)):
            places.append(next(place for place, one in enumerate(order, start=1) if is_relevant[one]))
    return np.mean(places)


@pytest.mark.parametrize("tiles", ODD_TILES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_those_of_all_orders_of_the_ties(tiles, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (9, 6)).astype(np.float64)
    rows, columns = rng.integers(0, 3, 9), rng.integers(0, 3, 6)
    found = rank(MatrixScores(torch.from_numpy(scores)), rows, columns, tiles)
    for row in range(9):
        is_relevant = columns == rows[row]
        wanted = expected_rank(scores[row], is_relevant) if is_relevant.any() else np.nan
        np.testing.assert_allclose(found.rows_R[row], wanted)
    turned = rank(MatrixScores(torch.from_numpy(scores[:6].T.copy())), columns, rows[:6], tiles)
    other_way = rank(MatrixScores(torch.from_numpy(scores[:6])), rows[:6], columns, tiles)
    np.testing.assert_array_equal(turned.rows_R, other_way.columns_C)
    for column in range(6):
        is_relevant = rows[:6] == columns[column]
        wanted = expected_rank(scores[:6, column], is_relevant) if is_relevant.any() else np.nan
        np.testing.assert_allclose(other_way.columns_C[column], wanted)


@pytest.mark.parametrize("tiles", ODD_TILES, ids=str)
def test_pairs_with_duplicate_vectors_rank_in_the_middle_whatever_the_tiles(tiles):
    rng = np.random.default_rng(5)
    images, texts = rng.normal(size=(2, 40, 17)).astype(np.float32)
    texts[[3, 11, 38]] = texts[20] * 2  # one direction: their cosines with anything are equal
    images[7] = images[31]
    cosines = (images / np.linalg.norm(images, axis=1)[:, None]).astype(np.float64)
    cosines = cosines @ (texts / np.linalg.norm(texts, axis=1)[:, None]).astype(np.float64).T
    found = rank(CosineScores(torch.from_numpy(images), torch.from_numpy(texts)), np.arange(40), np.arange(40), tiles)
    for one, ranks in ((cosines, found.rows_R), (cosines.T, found.columns_C)):
        own = np.diag(one)[:, None]
        above, level = (one > own + 1e-6).sum(axis=1), (np.abs(one - own) <= 1e-6).sum(axis=1)
        np.testing.assert_array_equal(ranks, above + (level + 1) / 2)
    assert found.rows_R[20] % 1 == 0.5 or found.rows_R[20] >= 2.5  # four equal texts: no optimistic first place
    assert len({found.rows_R[20] - (cosines[20] > cosines[20, 20] + 1e-6).sum()} - {2.5}) == 0


def test_scores_that_say_nothing_are_worth_chance():
    """The optimistic trap: counting only what is strictly better would put every query first."""
    flat = torch.zeros(10, 10)
    found = rank(MatrixScores(flat), np.arange(10), np.arange(10), TileSettings())
    assert set(found.rows_R) == set(found.columns_C) == {5.5}


def test_a_pair_that_is_not_there_has_no_rank():
    found = rank(MatrixScores(torch.eye(3)), np.array([0, 1, 9]), np.array([0, 1, 8]), TileSettings())
    np.testing.assert_array_equal(found.rows_R, [1, 1, np.nan])
    np.testing.assert_array_equal(found.columns_C, [1, 1, np.nan])


def test_scores_nearer_than_the_tolerance_are_ties():
    scores = torch.tensor([[0.5, 0.5 + 4e-7, 0.1]], dtype=torch.float64)
    loose, strict = (
        rank(MatrixScores(scores), np.array([0]), np.array([0, 1, 2]), TileSettings(tie_tolerance=tolerance)).rows_R
        for tolerance in (1e-6, 0.0)
    )
    assert (loose[0], strict[0]) == (1.5, 2.0)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_precision_shares_a_tie_at_the_border(rows):
    scores = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    groups, candidates = np.array([0, 1]), np.array([0, 0, 1, 1, 1])
    found = precision(MatrixScores(scores), groups, candidates, (1, 2, 5), TileSettings(rows=rows))
    # Row 0, K 2: the first is relevant, and of the three tied for one place one is: (1 + 1/3) / 2.
    np.testing.assert_allclose(found, [[1, (1 + 1 / 3) / 2, 2 / 5], [1, 1, 3 / 5]])
    turned = precision(Turned(MatrixScores(scores.T.contiguous())), groups, candidates, (2,), TileSettings(rows=rows))
    np.testing.assert_allclose(turned[:, 0], found[:, 1])


def test_a_random_order_finds_one_of_n_at_k_of_n():
    assert random_recall(np.ones(7, int), 50, 10) == pytest.approx(0.2)
    assert random_recall(np.array([2]), 4, 2) == pytest.approx(1 - (2 / 4) * (1 / 3))
    assert random_recall(np.array([0, 3]), 3, 10) == pytest.approx(0.5)


def test_random_vectors_come_close_to_it():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 3000, 16, generator=generator)
    found = rank(CosineScores(images, texts), np.arange(3000), np.arange(3000), TileSettings())
    for ranks in (found.rows_R, found.columns_C):
        assert abs((ranks <= 300).mean() - 0.1) < 0.02
        assert abs(ranks.mean() - 1500.5) < 60
