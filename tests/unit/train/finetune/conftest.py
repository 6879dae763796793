"""Start weights with every parameter random, and examples in which there is something to learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.finetuning import (
    ClassifyFinetuning,
    ContrastSettings,
    HeadSettings,
    HidingSettings,
    LabelSettings,
    ReportFinetuning,
    RetrieveFinetuning,
)
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.settings.training import LoopSettings, OptimizerSettings
from chexmix_cli.core.train.examples.documents import DocumentSet
from chexmix_cli.core.train.finetune.classify_task import ClassifyTask, LabelledSet
from chexmix_cli.core.train.finetune.report_task import ReportTask
from chexmix_cli.core.train.finetune.retrieve_task import RetrieveTask
from chexmix_cli.core.train.loop import Trainer

#: The code that stands for a finding, and the word that stands for a code in a report.
FINDING_CODE = 7


@pytest.fixture
def start_decoder(trained_model: ModelSettings) -> Callable[[], Decoder]:
    """Return a function that makes the start weights' decoder anew."""

    def make() -> Decoder:
        decoder = Decoder(trained_model.decoder)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                # An output head so small could not say anything for sure, whatever its input learns.
                std = {"embedding.weight": 1.0, "head.weight": 0.6}.get(name, 0.15)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
                if "norm" in name and name.endswith("weight"):
                    parameter.add_(1.0)
        decoder.set_dropout(0.1)
        return decoder

    return make


def labelled(count: int, seed: int) -> LabelledSet:
    """Return images whose first finding is a code that occurs; the second is rare, and not known of every third."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(8, 32, (count, 2, 16)).astype(np.uint16)
    target = np.stack([rng.random(count) < 0.3, rng.random(count) < 0.15], axis=1).astype(np.float32)
    for image in range(count):
        for finding in (0, 1):
            if target[image, finding]:
                places = rng.choice(16, 3, replace=False)
                codes[image, :, places] = FINDING_CODE - finding
    target[::3, 1] = np.nan
    names = [f"film{index}" for index in range(count)]
    return LabelledSet(codes, torch.from_numpy(target), names, names)


def pairs(count: int, seed: int) -> DocumentSet:
    """Return images of one of 12 codes each, and reports that name it in one of two ways."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 12, count)
    codes = rng.integers(16, 32, (count, 2, 16)).astype(np.uint16)
    codes[:, :, 3:9] = kind[:, None, None]
    reports = [[100 + int(number), 200 + int(rng.integers(0, 2)), 50] for number in kind]
    return DocumentSet(codes, reports, [f"doc{index}" for index in range(count)])


@pytest.fixture
def build(trained_model: ModelSettings, start_decoder: Callable[[], Decoder]) -> Callable[..., Trainer]:
    """Return a function that makes a fresh trainer of a task, as a new process would."""

    def make(
        task: str,
        out: Path,
        *,
        method: str = "lora",
        report: Any = lambda record: None,
        exports: list[Any] | None = None,
        labels: LabelSettings | None = None,
        learning_rate: float = 3e-3,
        sizes: tuple[int, int] = (48, 24),
        layer: int | None = None,
        image_ratio: tuple[float, float] = (0.0, 0.0),
        **loop: Any,
    ) -> Trainer:
        torch.manual_seed(0)
        numbers = {"steps": 9, "batch_size": 8, "micro_batch_size": 4, "checkpoint_every": 3, "validate_every": 4}
        train = LoopSettings(**{**numbers, "log_every": 1, "precision": "float32", **loop})
        optimizer = OptimizerSettings(learning_rate=learning_rate, warmup_steps=2, weight_decay=0.01)
        common: dict[str, Any] = {"method": method, "train": train, "optimizer": optimizer}
        decoder, vocabulary = start_decoder(), trained_model.vocabulary

        def export(*arguments: Any) -> None:
            if exports is not None:
                exports.append(arguments)

        if task == "report":
            report_settings = ReportFinetuning(**common)
            documents = pairs(sizes[0], 0), pairs(sizes[1], 1)
            made: Any = ReportTask(report_settings, decoder, vocabulary, *documents, export)
            settings: Any = report_settings
        elif task == "classify":
            parts = {"head": HeadSettings(layer=layer), "masking": HidingSettings(image_ratio=image_ratio)}
            settings = ClassifyFinetuning(**common, labels=labels or LabelSettings(), **parts)
            images = labelled(sizes[0], 0), labelled(sizes[1], 1)
            made = ClassifyTask(settings, decoder, vocabulary, *images, export)
        else:
            settings = RetrieveFinetuning(**common, contrast=ContrastSettings(size=16, layer=layer))
            made = RetrieveTask(
                settings, decoder, vocabulary, pairs(sizes[0], 0), pairs(sizes[1], 1), export, lambda *_: None
            )
        out.mkdir(parents=True, exist_ok=True)
        return Trainer(made, train, optimizer, to_dict(settings), out=out, report=report)

    return make
