"""What data sets say of a patient: sex and age, in the words and forms they have for them."""

from __future__ import annotations

import pytest

from chexmix_cli.core.data.adapters.reading import read_age, read_sex


@pytest.mark.parametrize(
    ("text", "years"),
    [("58", 58), ("58.0", 58), ("058Y", 58), ("018M", 1.5), ("090D", 0.25), ("26W", 0.5), (None, None), ("", None)]
    + [("414", None), ("58Z", None), ("unknown", None), ("-3", None)],
)
def test_ages(text, years):
    assert read_age(text) == years


@pytest.mark.parametrize(("text", "sex"), [("Female", "F"), ("m", "M"), ("O", "O"), ("Unknown", None), (None, None)])
def test_sexes(text, sex):
    assert read_sex(text) == sex
