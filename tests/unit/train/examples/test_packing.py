"""Rows are a function of (seed, epoch, lengths), hold every document once an epoch, and reach the objective as such."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from chexmix_cli.core.errors import SettingsError, TrainingError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.training import (
    LoopSettings,
    MaskingSettings,
    OptimizerSettings,
    PackingSettings,
    Stage1Training,
    Stage2Training,
)
from chexmix_cli.core.train.examples.packing import Piece, RowPlan
from chexmix_cli.core.train.objectives import IGNORED
from chexmix_cli.core.train.order import batch_indices
from chexmix_cli.core.train.pretrain.decoder_task import DecoderTask

LENGTHS = [int(length) for length in np.random.default_rng(0).integers(3, 12, 23)]
SETTINGS = [
    PackingSettings(),
    PackingSettings(row_tokens=12),
    PackingSettings(row_tokens=40),
    PackingSettings(row_tokens=12, attention="paper"),
    PackingSettings(row_tokens=5, attention="paper"),
    PackingSettings(row_tokens=1000, attention="paper"),
]


def epochs(plan: RowPlan, count: int) -> list[list[list[Piece]]]:
    """Return the rows of some epochs: an epoch ends once every token of every document was there."""
    found, number = [], 0
    for _ in range(count):
        rows, tokens = [], 0
        while tokens < sum(LENGTHS):
            rows.append(plan.row(number))
            tokens += sum(piece.stop - piece.start for piece in rows[-1])
            number += 1
        found.append(rows)
    return found


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_an_epoch_holds_every_token_once_in_the_order_of_its_permutation(settings):
    for epoch, rows in enumerate(epochs(RowPlan(LENGTHS, settings, seed=4), 3)):
        stream = [(piece.document, at) for row in rows for piece in row for at in range(piece.start, piece.stop)]
        order = np.random.default_rng([4, epoch]).permutation(len(LENGTHS))
        assert stream == [(int(document), at) for document in order for at in range(LENGTHS[document])]
        for row in rows:
            size = sum(piece.stop - piece.start for piece in row)
            assert row
            assert size <= (settings.row_tokens or max(LENGTHS))
            if settings.attention == "inside":
                assert all((piece.start, piece.stop) == (0, LENGTHS[piece.document]) for piece in row)
            elif row is not rows[-1]:
                assert size == settings.row_tokens


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_rows_are_the_same_whoever_asks_in_whatever_order(settings):
    plan = RowPlan(LENGTHS, settings, seed=4)
    rows = [plan.row(number) for number in range(60)]
    shuffled = np.random.default_rng(1).permutation(60).tolist()
    other = RowPlan(LENGTHS, settings, seed=4)
    assert {number: other.row(number) for number in shuffled} == dict(enumerate(rows))
    assert [RowPlan(LENGTHS, settings, seed=5).row(number) for number in range(60)] != rows


def test_a_row_takes_documents_as_long_as_they_fit():
    plan = RowPlan(LENGTHS, PackingSettings(row_tokens=30), seed=0)
    rows = epochs(plan, 1)[0]
    for row, following in zip(rows, rows[1:], strict=False):
        assert sum(piece.stop for piece in row) + following[0].stop > 30


def test_one_document_a_row_is_the_order_of_all_other_stages():
    plan = RowPlan(LENGTHS, PackingSettings(), seed=3)
    rows = [plan.row(number) for number in range(40)]
    expected = [batch_indices(seed=3, step=step, batch_size=4, num_examples=len(LENGTHS)) for step in range(10)]
    assert [row[0].document for row in rows] == [index for step in expected for index in step]


def test_a_document_that_fits_no_row_is_refused_before_training():
    with pytest.raises(TrainingError, match=r"packing.row_tokens: a document has 11 tokens; expected at least so many"):
        RowPlan([4, 11], PackingSettings(row_tokens=10), seed=0)
    assert RowPlan([4, 11], PackingSettings(row_tokens=10, attention="paper"), seed=0).row(0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"row_tokens": -1}, "packing.row_tokens: is -1; expected 0 or more"),
        ({"attention": "paper"}, "a number of tokens for attention across documents"),
    ],
)
def test_impossible_packing_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        PackingSettings(**values)


def stage(trained_model, packing: PackingSettings, **values):
    return Stage1Training(
        model=trained_model,
        train=LoopSettings(steps=4, batch_size=6, micro_batch_size=3, precision="float32"),
        optimizer=OptimizerSettings(learning_rate=1e-3),
        packing=packing,
        **values,
    )


def test_rows_across_documents_need_positions_and_rows_inside_them_do_not(trained_model):
    with pytest.raises(SettingsError, match=r"packing.row_tokens: is 49; expected at most the decoder's 48 positions"):
        stage(trained_model, PackingSettings(row_tokens=49, attention="paper"))
    assert stage(trained_model, PackingSettings(row_tokens=490)).packing.row_tokens == 490


def make_task(settings, document_set) -> DecoderTask:
    torch.manual_seed(0)
    decoder = Decoder(dataclasses.replace(settings.model.decoder, residual_dropout=0.0))
    return DecoderTask(settings, decoder, document_set, document_set, lambda directory: None)


@pytest.mark.parametrize(
    "packing", [PackingSettings(row_tokens=100), PackingSettings(row_tokens=30, attention="paper")], ids=str
)
def test_a_step_of_rows_is_those_documents_cut_where_the_rows_are(trained_model, document_set, packing):
    task = make_task(stage(trained_model, packing), document_set)
    vocabulary = trained_model.vocabulary
    indices = task.examples.select(1)
    assert indices == list(range(6, 12))
    batch = task.examples.prepare(indices, torch.Generator().manual_seed(0))
    assert [len(part.rows) for part in task.split(batch, 3)] == [3, 3]
    ids = iter(task.examples.ids(indices))
    at = 0
    for number, count in zip(indices, batch.rows, strict=True):
        for piece in task.examples._rows.row(number):
            assert next(ids) == f"doc{piece.document}"
            encodings = document_set.codes_NVP[piece.document].tolist()
            report = document_set.reports[piece.document]
            whole = [[*vocabulary.document(codes, report), vocabulary.begin_image] for codes in encodings]
            length = batch.lengths[at]
            assert length == piece.stop - piece.start
            found = [*batch.input_BT[at, :length].tolist(), int(batch.target_BT[at, length - 1])]
            assert found in [tokens[piece.start : piece.stop + 1] for tokens in whole]
            assert batch.target_BT[at, : length - 1].tolist() == found[1:-1]
            assert (batch.target_BT[at, length:] == IGNORED).all()
            at += 1
        assert count == len(task.examples._rows.row(number))
    terms = task.loss(batch, 0)
    filled, budget = terms.sums["row_fill"]
    assert (float(filled), budget) == (batch.num_tokens(), 6 * packing.row_tokens)


def test_packed_inside_a_step_learns_what_one_document_a_row_learns(trained_model, document_set):
    """The same eight documents, in eight rows or in fewer: the same loss and the same gradients."""
    found = {}
    for row_tokens, batch_size in ((0, 8), (1000, 1)):
        settings = stage(trained_model, PackingSettings(row_tokens=row_tokens))
        train = dataclasses.replace(settings.train, batch_size=batch_size, micro_batch_size=1)
        task = make_task(dataclasses.replace(settings, train=train), document_set)
        parts = task.split(task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0)), 1)
        assert len(parts) == batch_size
        totals = []
        for part in parts:
            terms = task.loss(part, 0)
            terms.total.backward()
            totals.append(terms.total.detach())
        found[row_tokens] = [sum(totals), *(parameter.grad for parameter in task.module.parameters())]
    for one, other in zip(found[0], found[1000], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["paper", "bidirectional"])
@pytest.mark.parametrize(
    "packing", [PackingSettings(row_tokens=100), PackingSettings(row_tokens=30, attention="paper")], ids=str
)
def test_stage_2_packs_too(trained_model, document_set, packing, attention):
    first = stage(trained_model, packing)
    settings = Stage2Training(
        model=first.model,
        train=first.train,
        optimizer=first.optimizer,
        packing=packing,
        masking=MaskingSettings(attention=attention),
    )
    task = make_task(settings, document_set)
    batch = task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0))
    vocabulary = trained_model.vocabulary
    is_masked_BT = batch.input_BT == vocabulary.mask
    assert is_masked_BT.any()
    counted = sum(int(is_masked_BT[at, 1:].sum()) + 1 for at in range(len(batch.lengths)))
    assert batch.num_targets() == counted
    terms = task.loss(batch, 0)
    terms.total.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in task.module.parameters())
