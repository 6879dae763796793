"""Linear heads: the formula by hand, the file there and back, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from chexmix_cli.core.errors import ShapeError, WeightsError
from chexmix_cli.core.infer.classification.heads import Head, Validation, sigmoid
from chexmix_cli.core.weights.formats.header import read_header


def make_head(count=3, hidden=5, seed=0, **changes):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    values = {
        "labels": tuple(f"finding {number}" for number in range(count)),
        "layer": 2,
        "mean_D": draw(hidden),
        "scale_D": np.exp(draw(hidden)),
        "weight_KD": draw(count, hidden),
        "bias_K": draw(count),
        "slope_K": np.exp(draw(count)),
        "offset_K": draw(count),
        "threshold_K": rng.uniform(size=count).astype(np.float32),
        "calibration": "platt",
        "model": "f" * 64,
        "validation": {
            "finding 0": Validation(auroc=0.75, interval=(0.5, 0.875), positives=4, negatives=6),
            "finding 1": Validation(auroc=None, interval=None, positives=0, negatives=9),
        },
        "provenance": {"fitted on": "a test"},
    }
    return Head(**{**values, **changes})


def test_probabilities_by_hand():
    head = make_head(2, 3)
    rng = np.random.default_rng(1)
    embedding_BD = rng.normal(size=(4, 3))
    for row, found in zip(embedding_BD, head.probabilities(embedding_BD), strict=True):
        for label in range(2):
            logit = float(head.bias_K[label])
            for d in range(3):
                logit += float(head.weight_KD[label, d]) * (row[d] - float(head.mean_D[d])) / float(head.scale_D[d])
            wanted = 1 / (1 + np.exp(-(float(head.slope_K[label]) * logit + float(head.offset_K[label]))))
            assert found[label] == pytest.approx(wanted, rel=1e-9)


def test_a_head_of_some_labels_says_of_them_what_the_whole_one_says():
    head = make_head(3, 5)
    embedding_BD = np.random.default_rng(1).normal(size=(4, 5))
    some = head.of_labels(["finding 2", "finding 0"])
    assert some.labels == ("finding 2", "finding 0")
    assert some.validation == {"finding 0": head.validation["finding 0"]}
    wanted = head.probabilities(embedding_BD)[:, [2, 0]]
    np.testing.assert_allclose(some.probabilities(embedding_BD), wanted, rtol=1e-12)
    assert some.threshold_K.tolist() == head.threshold_K[[2, 0]].tolist()


def test_far_logits_neither_overflow_nor_warn():
    assert sigmoid(np.array([-1e5, 0.0, 1e5])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("grid", "pooling"), [(1, "mean"), (4, "grid4"), (16, "grid16")])
def test_a_head_comes_back_as_it_was(tmp_path, grid, pooling):
    head = make_head(grid=grid)
    head.save(tmp_path / "deep" / "head.safetensors")
    back = Head.load(tmp_path / "deep" / "head.safetensors")
    assert head.pooling == pooling
    for name in ("labels", "layer", "grid", "calibration", "model", "validation", "provenance"):
        assert getattr(back, name) == getattr(head, name)
    for name in ("mean_D", "scale_D", "weight_KD", "bias_K", "slope_K", "offset_K", "threshold_K"):
        assert np.array_equal(getattr(back, name), getattr(head, name))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["head.safetensors"]


def test_embeddings_of_another_size_are_refused():
    with pytest.raises(ShapeError, match=r"embeddings \(2, 4\); expected \(B, 5\)"):
        make_head().probabilities(np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias_K": np.zeros(2, np.float32)}, "bias"),
        ({"weight_KD": np.zeros((3, 5))}, "weight .* float64"),
        ({"mean_D": np.full(5, np.nan, np.float32)}, "finite"),
        ({"scale_D": np.zeros(5, np.float32)}, "scales above 0"),
        ({"labels": ("a", "a", "b")}, "each once"),
    ],
)
def test_a_head_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ShapeError, match=message):
        make_head(**changes)


def test_a_head_of_other_weights_is_refused_with_what_to_do():
    head = make_head()
    head.require_model("f" * 64, "head")
    with pytest.raises(WeightsError, match="made for other weights") as caught:
        head.require_model("0" * 64, "head.safetensors")
    assert "chexmix finetune --task classify --method probe" in (caught.value.hint or "")


def test_files_that_are_no_head_are_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    with pytest.raises(WeightsError, match="no head"):
        Head.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        Head.load(path)
    save_file({"a": np.zeros(1, np.float32)}, path)
    with pytest.raises(WeightsError, match="no header key 'chexmix-head'"):
        Head.load(path)
    make_head().save(path)
    arrays, metadata = load_file(path), dict(read_header(path).metadata)
    values = json.loads(metadata["chexmix-head"])
    save_file(arrays, path, metadata={"chexmix-head": json.dumps({**values, "schema": 2})})
    with pytest.raises(WeightsError, match="schema 2"):
        Head.load(path)
    save_file(arrays, path, metadata={"chexmix-head": json.dumps({**values, "pooling": "last"})})
    with pytest.raises(WeightsError, match="pooling last"):
        Head.load(path)
    save_file({**arrays, "bias": arrays["bias"][:1].copy()}, path, metadata=metadata)
    with pytest.raises(WeightsError, match="is not a head"):
        Head.load(path)
    del arrays["bias"]
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(WeightsError, match="is not a head"):
        Head.load(path)


@pytest.mark.parametrize(
    "damaged",
    [
        {"labels": "abc"},
        {"labels": ["a", 1, "b"]},
        {"model": None},
        {"calibration": ["platt"]},
        {"values": 1},
        {"quantiles": {"finding 0": [[0.1, 0.2], []]}},
        {"quantiles": {"finding 0": [[0.1, "0.2"], [0.1]]}},
        {"quantiles": {"finding 0": [[0.1, float("nan")], [0.1]]}},
        {"validation": {"finding 0": {"auroc": "0.9", "interval": None, "positives": 1, "negatives": 1}}},
        {"validation": {"finding 0": {"auroc": 0.9, "interval": [0.8], "positives": 1, "negatives": 1}}},
        {"validation": {"finding 0": {"auroc": 0.9, "interval": None, "positives": -1, "negatives": 1}}},
        {"validation": {"finding 0": {"auroc": 0.9, "interval": None, "positives": True, "negatives": 1}}},
    ],
)
def test_a_header_of_other_types_is_refused(tmp_path, damaged):
    path = tmp_path / "head.safetensors"
    make_head().save(path)
    arrays, values = load_file(path), json.loads(read_header(path).metadata["chexmix-head"])
    save_file(arrays, path, metadata={"chexmix-head": json.dumps({**values, **damaged})})
    with pytest.raises(WeightsError, match="is not a head"):
        Head.load(path)
