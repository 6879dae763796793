"""A model and data small enough to train in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import small_runs
from PIL import Image

from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.train import loop
from chexmix_cli.core.train.examples.documents import DocumentSet
from chexmix_cli.core.train.loop import Trainer


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """Ask for one thread in every test of this folder."""


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than all steps of a small run; test_curves.py and the commands' tests draw it."""
    monkeypatch.setattr(loop, "write_curves", lambda records, path, **marks: None)


@pytest.fixture(scope="session")
def trained_model() -> ModelSettings:
    """Return settings of a 32 px model with 16 image tokens."""
    return small_runs.model_settings()


@pytest.fixture(scope="session")
def draw_film() -> Callable[..., Image.Image]:
    """Return the function that draws one of arbitrarily many synthetic films."""
    return small_runs.draw_film


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of 12 drawn images, 8 for training, with short reports."""
    folder = tmp_path_factory.mktemp("manifest")
    lines = []
    for index in range(12):
        small_runs.draw_film(index).save(folder / f"film{index}.png")
        lines.append(
            {
                "id": f"film{index}",
                "file": f"film{index}.png",
                "split": "train" if index < 8 else "val",
                "findings": f"Case {index} is clear.",
                "impression": "Normal." if index % 2 else "Opacity.",
            }
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def document_set() -> DocumentSet:
    """Return 8 random documents with two image variants each."""
    return small_runs.document_set()


@pytest.fixture
def build() -> Callable[..., Trainer]:
    """Return the function that makes a fresh trainer of a stage, as a new process would."""
    return small_runs.make_trainer
