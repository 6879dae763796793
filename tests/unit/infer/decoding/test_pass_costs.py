"""What a report costs, in operations, bytes and passes: a slower way shows here, whatever else the machine is doing.

The numbers follow from the sizes of the model, for a report of 24 tokens. A change of one is a decision: say it in the
changelog, under Performance.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chexmix_cli.core.infer.decoding.prefixes import PrefixStore
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.kernels.quantized import native
from chexmix_cli.core.models import linear, quantized
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights import open_weights

NEW_TOKENS = 24
SETTINGS = DecodeSettings(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, draft_rows=8)


@pytest.fixture(scope="module")
def weights(debug_weights):
    return open_weights(debug_weights)


def parameters(weights):
    """Return the numbers of the blocks' matrices, and of the head's rows of ordinary text and the two ends."""
    model, vocabulary = weights.settings.decoder, weights.settings.vocabulary
    width, mlp = model.hidden_size, model.mlp_size
    block = width * (3 * width + mlp) + (width + mlp) * width
    return model.num_layers * block, (vocabulary.num_text - 1) * width


def operations(weights, num_tokens):
    """Return the multiplications and additions of the products over a prompt and a number of new tokens."""
    blocks, head = parameters(weights)
    # The prompt's last position gives the first token; the last token is read by no one.
    num_positions = weights.settings.vocabulary.prompt_length + num_tokens - 1
    return 2 * (num_positions * blocks + num_tokens * head)


@pytest.fixture
def matrices(monkeypatch):
    """Return a list that gets the bytes of each matrix a product reads."""
    found = []
    for module, name in ((linear, "product"), (quantized, "int8_product")):
        computed = getattr(module, name)

        def watch(x, weight_OI, *rest, computed=computed):
            found.append(weight_OI.nbytes)
            return computed(x, weight_OI, *rest)

        monkeypatch.setattr(module, name, watch)
    compiled = native.product

    def watch_native(x, panels, bias, rows):
        num_rows = len(range(*(slice(None) if rows is None else rows).indices(panels.num_out)))
        found.append(num_rows * panels.num_in * panels.bits // 8)
        return compiled(x, panels, bias, rows)

    monkeypatch.setattr(native, "product", watch_native)
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
    assert counter.get_total_flops() == operations(weights, NEW_TOKENS)


@pytest.mark.parametrize(("quantize", "block_bits", "head_bits"), [(None, 32, 32), ("int8", 8, 8), ("int4", 4, 8)])
def test_a_pass_reads_every_matrix_once(weights, matrices, quantize, block_bits, head_bits):
    if quantize == "int4" and not native.uses_native():
        pytest.skip("the kernels are not compiled, or not for this CPU")
    _, stats = decode(weights, quantize=quantize)
    blocks, head = parameters(weights)
    assert sum(matrices) == (stats.num_passes + 1) * (blocks * block_bits + head * head_bits) // 8


def test_right_drafts_save_passes_and_with_them_bytes(weights, matrices):
    said, _ = decode(weights)
    matrices.clear()
    prompt_length = weights.settings.vocabulary.prompt_length
    with FlopCounterMode(display=False) as counter:
        ids, stats = decode(weights, drafter=Knows(prompt_length, said))
    assert ids == said
    # The prompt's pass gives the first token, eight come of each further one.
    assert stats.num_passes == 3
    assert sum(matrices) == (stats.num_passes + 1) * 4 * sum(parameters(weights))
    # Nothing is read twice, nothing drafted in vain: the same operations as without.
    assert counter.get_total_flops() == operations(weights, NEW_TOKENS)


def test_a_film_that_was_read_costs_its_tokens_alone(weights):
    vocabulary = weights.settings.vocabulary
    store = PrefixStore(1 << 26)
    engine = report_engine(weights.load_decoder("cpu", torch.float32), vocabulary, prefixes=store)
    prompt = vocabulary.report_prompt([7] * vocabulary.tokens_per_image)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            engine.generate([prompt], SETTINGS)
        counts.append(counter.get_total_flops())
    blocks, _ = parameters(weights)
    whole = operations(weights, NEW_TOKENS)
    assert counts == [whole, whole - 2 * len(prompt) * blocks]
    shape = weights.settings.decoder
    # Keys and values of every layer and position, and the last state, in four bytes a number.
    assert store.held_bytes == 4 * shape.hidden_size * (2 * shape.num_layers * len(prompt) + 1)


def test_eight_reports_of_one_film_read_it_once(weights):
    vocabulary = weights.settings.vocabulary
    engine = report_engine(weights.load_decoder("cpu", torch.float32), vocabulary)
    prompt = vocabulary.report_prompt([7] * vocabulary.tokens_per_image)
    sampled = dataclasses.replace(SETTINGS, temperature=1.0)
    with FlopCounterMode(display=False) as counter:
        engine.generate([prompt] * 8, sampled, seed=list(range(8)))
    blocks, _ = parameters(weights)
    assert counter.get_total_flops() == 8 * operations(weights, NEW_TOKENS) - 7 * 2 * len(prompt) * blocks
