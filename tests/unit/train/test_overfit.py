"""A few pairs learnt by heart: stage 1 writes every report back, stage 2 reconstructs what 80 % masks hide."""

from __future__ import annotations

import dataclasses
import runpy

import pytest

from chexmix_cli.core.settings.training import (
    LoopSettings,
    MaskingSettings,
    OptimizerSettings,
    Stage1Training,
    Stage2Training,
)
from chexmix_cli.core.train.examples.documents import DocumentSet


@pytest.fixture
def program(repository):
    """Return the functions of the program that does the same with real pairs."""
    return runpy.run_path(str(repository / "benchmarks" / "overfit.py"))


def settings(trained_model, kind, **more):
    return kind(
        model=trained_model,
        train=LoopSettings(steps=200, batch_size=16, micro_batch_size=16, precision="float32"),
        optimizer=OptimizerSettings(learning_rate=1e-2),
        **more,
    )


@pytest.fixture
def no_dropout(trained_model):
    decoder = dataclasses.replace(trained_model.decoder, residual_dropout=0.0)
    return dataclasses.replace(trained_model, decoder=decoder)


@pytest.fixture
def pairs(document_set) -> DocumentSet:
    """Return four pairs, each image in one encoding: few enough to be learnt in seconds."""
    return DocumentSet(document_set.codes_NVP[:4, :1], document_set.reports[:4], document_set.ids[:4])


def test_stage_1_writes_every_report_back(no_dropout, pairs, program):
    learnt = program["learn"](settings(no_dropout, Stage1Training), pairs, program["reports_written"])
    assert learnt["learnt"] == 1.0, learnt


def test_stage_2_reconstructs_most_of_what_80_percent_masks_hide(no_dropout, pairs, program):
    masking = MaskingSettings(image_ratio=(0.8, 0.8), text_ratio=(0.8, 0.8), attention="bidirectional")
    stage = settings(no_dropout, Stage2Training, masking=masking)
    learnt = program["learn"](stage, pairs, program["tokens_reconstructed"])
    # Under masks it has never seen, from three image tokens and one or two of the report; chance is one in 32 and less.
    assert learnt["learnt"] > 0.7, learnt
