"""Classical fills against independent solvers, written-out loops and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.restoration import inpaint_biharmonic

from chexmix_cli.core.errors import DataError
from chexmix_cli.core.infer.fills import FILLS, biharmonic_fill, harmonic_fill, mean_fill, telea_fill


def scene(seed: int = 0, shape: tuple[int, int] = (20, 17)):
    """Return a smooth picture and a mask that touches edges and corners."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / max(shape)
    picture = 120 + 70 * np.sin(5 * x + 3 * y * y) + rng.normal(0, 5, shape)
    is_hidden = rng.random(shape) < 0.3
    is_hidden[3:12, 4:11] = True
    is_hidden[0, :4] = True
    return picture, is_hidden


@pytest.mark.parametrize("name", FILLS)
def test_a_fill_keeps_what_is_visible_and_looks_at_nothing_else(name):
    picture, is_hidden = scene()
    filled = FILLS[name](picture, is_hidden)
    assert np.array_equal(filled[~is_hidden], picture[~is_hidden])
    other = np.where(is_hidden, 1e6, picture)
    assert np.array_equal(FILLS[name](other, is_hidden), filled)
    assert picture[~is_hidden].min() <= filled.min()
    assert filled.max() <= picture[~is_hidden].max()
    nothing = np.zeros_like(is_hidden)
    assert np.array_equal(FILLS[name](picture, nothing), picture)
    flat = np.full_like(picture, 37.0)
    assert np.allclose(FILLS[name](flat, is_hidden), 37.0)
    with pytest.raises(DataError, match="no pixel is visible"):
        FILLS[name](picture, np.ones_like(is_hidden))


def test_mean_is_that_of_the_visible():
    picture, is_hidden = scene()
    assert np.allclose(mean_fill(picture, is_hidden)[is_hidden], picture[~is_hidden].mean())


def test_harmonic_pixels_are_the_mean_of_their_neighbours():
    picture, is_hidden = scene()
    filled = harmonic_fill(picture, is_hidden)
    padded = np.pad(filled, 1, mode="edge")
    around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    assert np.abs(filled - around)[is_hidden].max() < 1e-9
    # A plane is harmonic: it comes back exactly where the hole is inside.
    y, x = np.mgrid[0:12, 0:12].astype(float)
    hole = np.zeros((12, 12), bool)
    hole[2:9, 3:10] = True
    assert np.allclose(harmonic_fill(2 * x - 3 * y, hole), 2 * x - 3 * y)


@pytest.mark.parametrize("seed", [0, 1])
def test_biharmonic_equals_scikit_image(seed):
    picture, is_hidden = scene(seed)
    assert np.abs(biharmonic_fill(picture, is_hidden) - inpaint_biharmonic(picture, is_hidden)).max() < 1e-8


def test_telea_equals_a_written_out_loop():
    """Distances by search, pixels one by one, weights as in the paper's section 2 (zeroth order)."""
    picture, is_hidden = scene(2, (13, 11))
    height, width = picture.shape
    hidden, known = (list(zip(*np.nonzero(mask), strict=True)) for mask in (is_hidden, ~is_hidden))
    level = np.zeros(picture.shape)
    for y, x in hidden:
        level[y, x] = min(np.hypot(y - b, x - a) for b, a in known)
    for y, x in known:
        level[y, x] = 1 - min(np.hypot(y - b, x - a) for b, a in hidden)
    normal = np.gradient(np.pad(level, 1, mode="edge"))
    filled, is_known = np.where(is_hidden, 0, picture), ~is_hidden
    for distance in sorted({level[spot] for spot in hidden}):
        front = [spot for spot in hidden if level[spot] == distance]
        values = []
        for y, x in front:
            total = weights = 0.0
            for b in range(max(0, y - 4), min(height, y + 5)):
                for a in range(max(0, x - 4), min(width, x + 5)):
                    far = np.hypot(b - y, a - x)
                    if not 0 < far <= 4 or not is_known[b, a]:
                        continue
                    along = abs((b - y) * normal[0][y + 1, x + 1] + (a - x) * normal[1][y + 1, x + 1]) / far
                    weight = max(along, 1e-6) / far**2 / (1 + abs(level[b, a] - level[y, x]))
                    total, weights = total + weight * filled[b, a], weights + weight
            values.append(total / weights)
        for spot, value in zip(front, values, strict=True):
            filled[spot], is_known[spot] = value, True
    assert np.abs(telea_fill(picture, is_hidden) - filled).max() < 1e-9


def test_telea_prefers_no_side():
    picture, is_hidden = scene(3)
    filled = telea_fill(picture, is_hidden)
    for turn in (np.fliplr, np.flipud, np.transpose):
        assert np.allclose(telea_fill(turn(picture), turn(is_hidden)), turn(filled))
