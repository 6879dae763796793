"""Films and a model small enough to plan for in seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import small_runs
from PIL import Image

from chexmix_cli.core.settings.model import ModelSettings


@pytest.fixture(scope="session")
def trained_model() -> ModelSettings:
    """Return settings of a 32 px model with 16 image tokens."""
    return small_runs.model_settings()


@pytest.fixture(scope="session")
def draw_film() -> Callable[..., Image.Image]:
    """Return the function that draws one of arbitrarily many synthetic films."""
    return small_runs.draw_film
