"""Classical fills against independent solvers, written-out loops and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.restoration import inpaint_biharmonic

from chexmix_cli.core.errors import DataError
from chexmix_cli.core.infer.inpainting.classical_fills import (
    FILLS,
    biharmonic_fill,
    harmonic_fill,
    mean_fill,
    telea_fill,
    tension_blends,
    tension_fill,
)


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


def dense_tension(picture, is_hidden, length_px):
    """Return the tension fill, its equations written out pixel by pixel and solved as a whole; not bounded."""
    shape = picture.shape
    laplacian = np.zeros((picture.size, picture.size))
    for y, x in np.ndindex(shape):
        for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= b < shape[0] and 0 <= a < shape[1]:
                laplacian[y * shape[1] + x, b * shape[1] + a] += 1
                laplacian[y * shape[1] + x, y * shape[1] + x] -= 1
    operator = laplacian @ laplacian - laplacian / length_px**2
    filled, hidden = picture.ravel().copy(), is_hidden.ravel()
    right = -operator[np.ix_(hidden, ~hidden)] @ filled[~hidden]
    filled[hidden] = np.linalg.solve(operator[np.ix_(hidden, hidden)], right)
    return filled.reshape(shape)


@pytest.mark.parametrize("length_px", [0.7, 4.0, 30.0])
def test_tension_equals_a_dense_solve_kept_in_bounds(length_px):
    picture, is_hidden = scene(4)
    visible = picture[~is_hidden]
    expected = np.clip(dense_tension(picture, is_hidden, length_px), visible.min(), visible.max())
    assert np.abs(tension_fill(picture, is_hidden, length_px) - expected).max() < 1e-8


def test_tension_lies_between_the_harmonic_and_the_biharmonic_fill():
    picture, is_hidden = scene()
    assert np.abs(tension_fill(picture, is_hidden, 1e-4) - harmonic_fill(picture, is_hidden)).max() < 1e-5
    assert np.abs(tension_fill(picture, is_hidden, 1e4) - biharmonic_fill(picture, is_hidden)).max() < 1e-5
    middle = tension_fill(picture, is_hidden)
    assert np.abs(middle - harmonic_fill(picture, is_hidden)).max() > 1
    assert np.abs(middle - biharmonic_fill(picture, is_hidden)).max() > 1


def drawn(seed: int = 9):
    """Return a picture of another texture, as a model may draw it."""
    return np.random.default_rng(seed).normal(120, 25, scene()[0].shape)


def blend(picture, drawn_YX, is_hidden, detail=0.75):
    """Return one blend."""
    (found,) = tension_blends(picture, [drawn_YX], is_hidden, detail=detail, length_px=4.0)
    return found


def test_a_blend_is_the_tension_fill_and_the_share_of_detail_that_the_drawn_picture_adds():
    picture, is_hidden = scene()
    added = drawn() - dense_tension(drawn(), is_hidden, 4.0)
    visible = picture[~is_hidden]
    for detail in (0.0, 0.3, 1.0):
        expected = dense_tension(picture, is_hidden, 4.0) + detail * added
        expected = np.clip(expected, visible.min(), visible.max())
        found = blend(picture, drawn(), is_hidden, detail)
        assert np.abs(found - expected).max() < 1e-8
        assert np.array_equal(found[~is_hidden], visible)
    assert np.array_equal(blend(picture, drawn(), is_hidden, 0.0), tension_fill(picture, is_hidden))
    assert np.abs(blend(picture, drawn(), is_hidden) - tension_fill(picture, is_hidden)).max() > 10


def test_a_drawn_picture_that_is_the_film_gives_the_film_back():
    picture, is_hidden = scene()
    visible = picture[~is_hidden]
    picture = np.clip(picture, visible.min(), visible.max())
    assert np.array_equal(blend(picture, picture, is_hidden, 1.0), picture)
    # Whatever its brightness: the offset is no detail.
    assert np.abs(blend(picture, picture + 40, is_hidden, 1.0) - picture).max() < 1e-9
    assert np.abs(blend(picture, drawn() + 40, is_hidden) - blend(picture, drawn(), is_hidden)).max() < 1e-9


def test_a_blend_looks_at_no_hidden_pixel_of_the_film_but_at_all_of_the_drawn_picture():
    picture, is_hidden = scene()
    found = blend(picture, drawn(), is_hidden)
    other = np.where(is_hidden, 1e6, picture)
    assert np.array_equal(blend(other, drawn(), is_hidden), found)
    # The negative controls: visible pixels count, and so does the drawn picture on either side.
    for where in (is_hidden, ~is_hidden):
        noise = np.where(where, np.random.default_rng(1).normal(0, 9, picture.shape), 0)
        assert np.abs(blend(picture, drawn() + noise, is_hidden) - found).max() > 1
    assert np.abs(blend(picture + np.where(is_hidden, 0, noise), drawn(), is_hidden) - found)[is_hidden].max() > 1


def test_several_drawn_pictures_are_blended_each_by_itself():
    picture, is_hidden = scene()
    several = tension_blends(picture, [drawn(1), drawn(2)], is_hidden, detail=0.75, length_px=4.0)
    for number, found in zip((1, 2), several, strict=True):
        assert np.array_equal(found, blend(picture, drawn(number), is_hidden))
    nothing = np.zeros_like(is_hidden)
    assert np.array_equal(blend(picture, drawn(), nothing), picture)
    with pytest.raises(DataError, match="no pixel is visible"):
        blend(picture, drawn(), ~nothing)


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
