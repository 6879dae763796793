"""The pixel probe: finds what is there, finds nothing where nothing is, and counts labels honestly."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.evals.probes.pixels import probe_auroc, usable_labels


def features(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise pictures of 64 pixels; label 0 brightens a corner, label 1 is of chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 2)).astype(np.float32)
    pixels = rng.normal(size=(count, 64)).astype(np.float32)
    pixels[:, :8] += 1.5 * labels[:, :1]
    return pixels, labels


def test_a_planted_sign_is_found_and_chance_is_not():
    train, test = features(0, 300), features(1, 300)
    found = probe_auroc(*train, *test, seed=0)
    assert found[0] > 0.9
    assert 0.4 < found[1] < 0.6
    assert probe_auroc(*train, *test, seed=0) == found


def test_unknown_labels_are_left_out_of_their_label_only():
    train, test = features(0, 300), features(1, 300)
    # A label that is wrong wherever it is stated as unknown must not be seen: flip, then hide.
    hidden = test[1].copy()
    hidden[:100, 0] = np.nan
    kept = probe_auroc(*train, test[0], hidden, seed=0)
    alone = probe_auroc(*train, test[0][100:], test[1][100:], seed=0)
    assert kept[0] == pytest.approx(alone[0])
    assert kept[1] == probe_auroc(*train, *test, seed=0)[1]


def test_a_label_needs_both_classes_in_both_parts():
    labels = np.zeros((40, 4), dtype=np.float32)
    labels[:20, 0] = 1  # fine
    labels[:7, 1] = 1  # one too few to fit
    labels[:20, 2] = np.nan
    labels[20:, 2] = 1  # no 0 left
    test = np.zeros((10, 4), dtype=np.float32)
    test[:4] = 1
    test[4:, 3] = 1  # one class only
    labels[:20, 3] = 1
    assert usable_labels(labels, test) == [0]
    assert (
        probe_auroc(np.ones((40, 3), np.float32), labels[:, 1:2], np.ones((10, 3), np.float32), test[:, 1:2], seed=0)
        == {}
    )


def test_features_without_labels_are_refused():
    with pytest.raises(ShapeError, match="3 images with 2 labels"):
        probe_auroc(np.ones((3, 2), np.float32), np.ones((2, 1), np.float32), np.ones((0, 2)), np.ones((0, 1)), seed=0)
