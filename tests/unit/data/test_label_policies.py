"""Uncertain and unstated labels by hand: the trap is -1 taken for a positive, or for a negative, without a word."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.data.labels import policy_labels

NAN = np.nan
NAMES = ("Atelectasis", "Cardiomegaly", "Pneumonia")
ROWS = [
    {"Atelectasis": 1, "Cardiomegaly": 0, "Pneumonia": -1},
    {"Atelectasis": -1, "Cardiomegaly": -1},
    {"Atelectasis": 0, "Cardiomegaly": None, "Pneumonia": 1},
]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("ignore", [[1, 0, NAN], [NAN, NAN, NAN], [0, NAN, 1]]),
        ("zeros", [[1, 0, 0], [0, 0, NAN], [0, NAN, 1]]),
        ("ones", [[1, 0, 1], [1, 1, NAN], [0, NAN, 1]]),
        ("mixed", [[1, 0, NAN], [1, 0, NAN], [0, NAN, 1]]),
    ],
)
def test_an_uncertain_label_counts_as_the_policy_says(policy, wanted):
    assert np.array_equal(policy_labels(ROWS, NAMES, policy), np.array(wanted, float), equal_nan=True)


def test_a_label_that_is_not_stated_is_zero_only_if_asked_for():
    found = policy_labels(ROWS, NAMES, "ignore", unstated="zeros")
    assert np.array_equal(found, [[1, 0, NAN], [NAN, NAN, 0], [0, 0, 1]], equal_nan=True)


def test_no_rows_give_no_numbers_of_the_right_shape():
    assert policy_labels([], NAMES, "ones").shape == (0, 3)
