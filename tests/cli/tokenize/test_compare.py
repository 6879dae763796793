"""``chexmix tokenize --compare``: two presets on the same films."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.evals.metrics.images import psnr_db


def test_a_preset_equals_itself_and_differs_from_another(call, films, debug_weights):
    same = call("tokenize", films, "--weights", debug_weights, "--compare", "voi", "voi")
    assert same.code == 0
    assert [record["codes_equal"] for record in same.records] == [1.0, 1.0, 1.0]
    assert all(record["psnr_db"] == {"films": None, "codes": None} for record in same.records)
    other = call("tokenize", films, "--weights", debug_weights, "--compare", "voi", "mimic-jpg")
    first = other.records[0]
    assert first["id"] == "a.png"
    assert 0 <= first["codes_equal"] < 1
    assert first["psnr_db"]["films"] > 0
    assert [preset["preset"] for preset in first["presets"]] == ["voi", "mimic-jpg"]
    assert first["presets"][0]["preset_hash"] != first["presets"][1]["preset_hash"]
    assert "of codes equal" in other.stderr


def test_the_share_is_that_of_the_codes_themselves(call, films, debug_weights):
    compared = call("tokenize", films, "--weights", debug_weights, "--compare", "voi", "percentile").records
    left, right = (
        call("tokenize", films, "--weights", debug_weights, "--image-preset", preset).records
        for preset in ("voi", "percentile")
    )
    for record, one, other in zip(compared, left, right, strict=True):
        equal = [a == b for a, b in zip(one["codes"], other["codes"], strict=True)]
        assert record["codes_equal"] == pytest.approx(sum(equal) / len(equal))


def test_a_bad_file_is_one_bad_record(call, films, debug_weights):
    (films / "b.png").write_bytes(b"nothing")
    result = call("tokenize", films, "--weights", debug_weights, "--compare", "voi", "percentile")
    assert result.code == 3
    assert [record["status"] for record in result.records] == ["ok", "error", "ok"]


@pytest.mark.parametrize("more", [("--compare", "voi", "vio"), ("--compare", "voi", "voi", "-o", "shards")])
def test_what_cannot_be_compared_is_refused(call, films, debug_weights, more):
    assert call("tokenize", films, "--weights", debug_weights, *more).code == 2


def test_stdin_cannot_be_read_twice(call, debug_weights):
    assert call("tokenize", "-", "--weights", debug_weights, "--compare", "voi", "percentile").code == 2


def test_psnr_by_hand():
    black, grey = np.zeros((2, 2), np.uint8), np.full((2, 2), 51, np.uint8)
    assert psnr_db(black, grey) == pytest.approx(20 * np.log10(5))
    assert psnr_db(grey, grey) is None
