"""Small checks for ``__post_init__`` of settings, so that every message has the same form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chexmix_cli.core.errors import SettingsError

#: Processes that prepare inputs or batches: more than any machine has cores for.
MOST_WORKERS = 256


def require(condition: bool, key: str, value: Any, expected: str) -> None:
    """Raise SettingsError naming ``key`` and ``value`` unless ``condition`` holds."""
    if not condition:
        raise SettingsError(f"is {value!r}", where=key, expected=expected)


def require_range(key: str, value: float, low: float, high: float) -> None:
    """Raise SettingsError unless ``low <= value <= high``."""
    require(low <= value <= high, key, value, f"{low:g}..{high:g}")


def require_shares(key: str, bounds: Sequence[float]) -> None:
    """Raise SettingsError unless these are two shares, the lower one first."""
    fits = len(bounds) == 2 and 0.0 <= bounds[0] <= bounds[1] <= 1.0
    require(fits, key, list(bounds), "two numbers, 0 <= low <= high <= 1")
