"""What a report costs, in operations, bytes and passes: a slower way shows here, whatever else the machine is doing.

The numbers are the embedded model's, for a report of 24 tokens. A change of one is a decision: say it in the changelog,
under Performance.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models import linear
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights import open_weights

NEW_TOKENS = 24
SETTINGS = DecodeSettings(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
#: Multiplications and additions of the matrix products over a prompt of 259 ids and the first choice among 1023 rows of
#: the head; of every further token's.
PROMPT_OPERATIONS, TOKEN_OPERATIONS = 2_444_754_432, 9_960_960
#: Bytes of the matrices that a pass reads, in float32 and in 8 bits.
PASS_BYTES, PASS_BYTES_INT8 = 19_921_920, 4_980_480


@pytest.fixture(scope="module")
def weights():
    return open_weights(None)


@pytest.fixture
def matrices(monkeypatch):
    """Return a list that gets the bytes of each matrix a product reads."""
    found = []
    for name in ("product", "int8_product"):
        computed = getattr(linear, name)

        def watch(x, weight_OI, *rest, computed=computed):
            found.append(weight_OI.nbytes)
            return computed(x, weight_OI, *rest)

        monkeypatch.setattr(linear, name, watch)
    return found


def decode(weights, *, quantize=None, drafter=None):
    vocabulary = weights.settings.vocabulary
    engine = report_engine(weights.load_decoder("cpu", torch.float32, quantize=quantize), vocabulary)
    prompt = vocabulary.report_prompt([7] * vocabulary.tokens_per_image)
    made = engine.generate([prompt], SETTINGS, drafter=drafter)[0]
    return made.token_ids, engine.stats


class Knows:
    """Drafts what will be said."""

    def __init__(self, prompt_length, ids):
        self.start, self.ids = prompt_length, ids

    def draft(self, token_ids, count):
        done = len(token_ids) - self.start
        return self.ids[done : done + count]


def test_operations_of_a_report_are_those_of_its_tokens(weights):
    with FlopCounterMode(display=False) as counter:
        _, stats = decode(weights)
    assert stats.num_passes == NEW_TOKENS - 1
    assert counter.get_total_flops() == PROMPT_OPERATIONS + stats.num_passes * TOKEN_OPERATIONS


@pytest.mark.parametrize(("quantize", "num_bytes"), [(None, PASS_BYTES), ("int8", PASS_BYTES_INT8)])
def test_a_pass_reads_every_matrix_once(weights, matrices, quantize, num_bytes):
    _, stats = decode(weights, quantize=quantize)
    assert sum(matrices) == (stats.num_passes + 1) * num_bytes


def test_right_drafts_save_passes_and_with_them_bytes(weights, matrices):
    said, _ = decode(weights)
    matrices.clear()
    prompt_length = weights.settings.vocabulary.prompt_length
    with FlopCounterMode(display=False) as counter:
        ids, stats = decode(weights, drafter=Knows(prompt_length, said))
    assert ids == said
    # The prompt's pass gives the first token, eight come of each further one.
    assert stats.num_passes == 3
    assert sum(matrices) == (stats.num_passes + 1) * PASS_BYTES
    # Nothing is read twice, nothing drafted in vain: the same operations as without.
    assert counter.get_total_flops() == PROMPT_OPERATIONS + (NEW_TOKENS - 1) * TOKEN_OPERATIONS
