"""The numbers of one filled film: regions, references, padding, ceilings, what is infinite."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.evals.inpainting.scores import EQUAL, Scorer
from chexmix_cli.core.evals.metrics.images import mean_ssim, psnr_db, ssim_map
from chexmix_cli.core.infer.inpainting.masked_film import MaskedFilm
from chexmix_cli.core.infer.inpainting.restorer import EncodedFilm

SIDE, GRID = 32, 4


def encoded(seed: int = 0) -> EncodedFilm:
    """Return a film of 32 x 24 px in a square, of which one code and a half is hidden."""
    rng = np.random.default_rng(seed)
    is_film, is_hidden = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    is_film[:, 4:28] = True
    is_hidden[8:16, 8:20] = True
    original, roundtrip = (rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8) for _ in range(2))
    is_touched = is_hidden.reshape(GRID, 8, GRID, 8).any(axis=(1, 3)).ravel()
    pixels = np.zeros((1, SIDE, SIDE), np.float32)
    masked = MaskedFilm(
        pixels, pixels, is_film, is_hidden, is_hidden, is_touched, is_touched & False, is_touched, {"kind": "box"}
    )
    codes = np.arange(GRID**2)
    return EncodedFilm(masked, original, original, roundtrip, codes, codes, codes)


def test_four_numbers_and_the_ceiling_leave_the_padding_out():
    film = encoded()
    result = np.random.default_rng(9).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    record = Scorer(film).record(result)
    area = (slice(None), slice(4, 28))
    is_hidden = film.film.is_hidden_YX[area]
    for name, reference in (("original", film.original_YX), ("roundtrip", film.roundtrip_YX)):
        assert record["psnr"]["masked"][name] == psnr_db(result[area], reference[area], is_hidden)
        assert record["psnr"]["whole"][name] == psnr_db(result[area], reference[area])
        similarity = ssim_map(result[area], reference[area])
        assert record["ssim"]["masked"][name] == mean_ssim(similarity, is_hidden)
        assert record["ssim"]["whole"][name] == mean_ssim(similarity)
    assert record["ceiling"]["psnr"]["masked"] == psnr_db(film.roundtrip_YX[area], film.original_YX[area], is_hidden)
    assert "undefined" not in record
    assert record["psnr"]["whole"]["original"] != pytest.approx(psnr_db(result, film.original_YX))


def test_what_is_infinite_is_null_with_the_reason():
    film = encoded()
    record = Scorer(film).record(film.roundtrip_YX)
    assert record["psnr"]["masked"]["roundtrip"] is None
    assert record["undefined"] == {"psnr.masked.roundtrip": EQUAL, "psnr.whole.roundtrip": EQUAL}
    assert record["psnr"]["masked"]["original"] == record["ceiling"]["psnr"]["masked"]


def test_code_accuracy_counts_codes_that_hold_hidden_pixels():
    film = encoded()
    codes = film.codes_P.copy()
    assert Scorer(film).code_accuracy(codes) == 1
    (first, second) = np.flatnonzero(film.film.is_touched_P)
    codes[[first, 15]] = 0
    assert (first, second) == (5, 6)
    assert Scorer(film).code_accuracy(codes) == 0.5
