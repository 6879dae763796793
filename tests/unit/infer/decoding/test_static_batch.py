"""Decoding with fixed shapes against :class:`Batch`, on a CPU; a trace stands in for the CUDA graph.

The trace records the operations of one pass with every number that Python decided baked in, and plays them back on the
same memory, as a CUDA graph does: whatever changes from pass to pass and is not in a buffer comes out wrong.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.infer.decoding import engine as engine_module
from chexmix_cli.core.infer.decoding import static_batch
from chexmix_cli.core.infer.decoding.batch import Batch
from chexmix_cli.core.infer.decoding.static_batch import Recordings, StaticBatch
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models import decoder as decoder_module
from chexmix_cli.core.settings.inference import DecodeSettings

LONG = DecodeSettings(max_new_tokens=12, min_new_tokens=12, draft_rows=8)


class Traces:
    """Records passes by tracing them; counts."""

    def __init__(self):
        self.count = 0

    def __call__(self, compute):
        self.count += 1
        compute()  # a CUDA graph is warmed up, too
        return make_fx(lambda: compute())()  # a bound method has one argument too many for it


@pytest.fixture
def engine(decoder, vocabulary, tokenizer):
    return report_engine(decoder, vocabulary, ordinary_ids=[i for i in range(1024) if tokenizer.token_bytes(i)])


@pytest.fixture
def prompts(vocabulary, codes):
    whole = [vocabulary.report_prompt(image) for image in codes]
    return [whole[0], whole[1][3:], [5], whole[2][:11], whole[2]]


@pytest.fixture
def static(monkeypatch):
    """Return a function that makes engines decode with fixed shapes, and gives what records their passes."""

    def use(record=None):
        record = record or Traces()
        monkeypatch.setattr(engine_module, "Batch", partial(StaticBatch, recordings=Recordings(record)))
        return record

    return use


class Sometimes:
    """Drafts that are right for a while, and then not; of other lengths from pass to pass."""

    def __init__(self, said):
        self.said, self.turn = said, 0

    def draft(self, token_ids, count):
        self.turn += 1
        for prompt, ids in self.said:
            if token_ids[: len(prompt)] == prompt:
                done = len(token_ids) - len(prompt)
                coming = ids[done : done + min(count, self.turn % 4)]
                return [*coming[: self.turn % 3], *((one + 1) % 1000 for one in coming[self.turn % 3 :])]
        return []


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.finish is other.finish


@pytest.mark.parametrize("is_fused", [False, True], ids=["append", "append_rotated"])
def test_reports_are_those_of_the_batch_with_shapes_that_move(engine, prompts, static, monkeypatch, is_fused):
    # The way of a GPU with Triton; the op itself takes its reference on a CPU.
    monkeypatch.setattr(decoder_module, "uses_triton", lambda device: is_fused)
    for chosen in (prompts, prompts[:1], [prompts[0], prompts[4]]):
        expected = engine.generate(chosen, LONG)
        traces = static()
        same(engine.generate(chosen, LONG), expected)
        assert traces.count == 1, "one pass of one position, recorded once"


def test_rows_that_end_early_keep_their_place(engine, prompts, vocabulary, static):
    with torch.no_grad():
        engine.decoder.head.bias[vocabulary.begin_text] += 2.4  # likely after some ids only
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=1)
    variants = [[*prompts[row][:-1], token_id, prompts[row][-1]] for row in (0, 1, 4) for token_id in range(4)]
    expected = engine.generate(variants, settings)
    assert len({len(one.token_ids) for one in expected}) > 2, "all rows end together: nothing is tested"
    traces = static()
    same(engine.generate(variants, settings), expected)
    assert traces.count == 1


def test_drafts_of_several_lengths_are_passes_of_several_widths(engine, prompts, static):
    expected = engine.generate(prompts[:2], LONG)
    said = [(prompt, one.token_ids) for prompt, one in zip(prompts, expected, strict=False)]
    traces = static()
    before = engine.stats.num_accepted
    same(engine.generate(prompts[:2], LONG, drafter=Sometimes(said)), expected)
    assert engine.stats.num_accepted > before
    assert 1 < traces.count <= 4


def test_recordings_are_kept_for_calls_that_fit(engine, prompts, static):
    """What an earlier call left in the cache, in rows that this one has not, changes nothing."""
    traces = static()
    for chosen, count in ((prompts[:4], 1), (prompts[1:4], 1), (prompts[2:4], 1), (prompts[:1], 2), (prompts, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "Batch", Batch)
            expected = engine.generate(chosen, LONG)
        same(engine.generate(chosen, LONG), expected)
        assert traces.count == count, f"after {len(chosen)} rows"


def test_a_pass_that_bakes_in_where_it_writes_is_found(engine, prompts, static, monkeypatch):
    """The stand-in for the graph sees what it is for: a place that is a number instead of a buffer."""
    expected = engine.generate(prompts[:1], LONG)

    class Apart(static_batch._Inputs):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.place_T = self.place_T.clone()

    monkeypatch.setattr(static_batch, "_Inputs", Apart)
    static()
    found = engine.generate(prompts[:1], LONG)
    assert found[0].logprobs != pytest.approx(expected[0].logprobs, abs=1e-4)


@torch.inference_mode()
def test_what_does_not_fit_is_refused(engine, prompts):
    batch = StaticBatch(
        engine.decoder, prompts[:1], max_new_tokens=3, pad=0, recordings=Recordings(lambda compute: compute)
    )
    batch.read_prompts()
    batch.read(torch.tensor([[1, 2]]))
    assert batch.room == 0
    with pytest.raises(ShapeError, match="positions in a cache of"):
        batch.read(torch.tensor([[1]]))
