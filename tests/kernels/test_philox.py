"""The counter-based generator against its published answers, and the kernel's against the reference's."""

from __future__ import annotations

import numpy as np

from chexmix_cli.core.kernels.philox import reference


def test_it_gives_the_published_words():
    """Known answer of Random123 for philox4x32-10 with counter 0 and key 0; the first word."""
    assert reference.first_word(np.array([0]), np.array([0]))[0] == 0x6627E8D5


def test_every_bit_of_the_key_and_of_the_counter_matters():
    bits = np.array([0, *(1 << bit for bit in range(63))])
    assert len(np.unique(reference.first_word(bits, np.array([0])))) == 64
    assert len(np.unique(reference.first_word(np.array([5]), bits[:33]))) == 33
