"""Whether two runs gave the same: to the last byte, or in all that is no rounding."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from record_outputs import RULES, excerpt, normalise  # noqa: E402

#: Two ways of summing differ by no more than this, as a share of the larger number or at all.
RELATIVE, ABSOLUTE = 2e-3, 2e-4
_DATA_URL = re.compile(r"data:image/[\w+]+;base64,([A-Za-z0-9+/=]+)")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
Outputs = Mapping[str, bytes]
__all__ = ["RULES", "Outputs", "largest_difference", "require_bytes"]


def require_bytes(expected: Outputs, found: Outputs) -> None:
    """Raise AssertionError unless all is the same, but for what ``RULES`` of ``tools/record_outputs.py`` names."""
    assert sorted(expected) == sorted(found)
    for name in sorted(expected):
        if expected[name] != found[name]:
            one, other = (_text(outputs[name]) for outputs in (expected, found))
            assert one is not None, f"{name}: other bytes"
            assert other is not None, f"{name}: no text any more"
            assert normalise(one, {}) == normalise(other, {}), (
                f"{name}:\n{excerpt(normalise(one, {}), normalise(other, {}))}"
            )


def _text(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def largest_difference(expected: Outputs, found: Outputs) -> float:
    """Return by how much numbers that are rounded differ, as a share of the larger one.

    Raises:
        AssertionError: if anything else differs, or a number by more than rounding.
    """
    assert sorted(expected) == sorted(found)
    differences = [
        difference for name in sorted(expected) for difference in _differences(name, expected[name], found[name])
    ]
    return max(differences, default=0.0)


def _differences(name: str, expected: bytes, found: bytes) -> Iterator[float]:
    if expected == found:
        return
    if name.endswith(".safetensors"):
        yield from _of_values(load(expected), load(found), name)
    elif expected.startswith(b"\x89PNG"):
        yield from _of_pictures(expected, found, name)
    elif (one := _text(expected)) is None or (other := _text(found)) is None:
        raise AssertionError(f"{name}: other bytes")
    elif name.endswith((".json", ".jsonl", "stdout")):
        yield from _of_values(_records(one, name), _records(other, name), name)
    elif name.endswith(".csv"):
        yield from _of_values(*(list(csv.reader(io.StringIO(text))) for text in (one, other)), name)
    else:
        yield from _of_texts(one, other, name)


def _records(text: str, name: str) -> Any:
    text = normalise(text, {}).replace(": <varies>", ': "varies"')
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def _of_values(one: Any, other: Any, where: str) -> Iterator[float]:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            yield from _of_values(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from _of_values(first, second, f"{where}[{number}]")
    elif isinstance(one, np.ndarray) and one.dtype.kind == "f":
        assert one.shape == other.shape, where
        for first, second in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
            yield _of_numbers(first, second, where)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other), where
    elif isinstance(one, float) and isinstance(other, float):
        yield _of_numbers(one, other, where)
    elif isinstance(one, str) and isinstance(other, str):
        yield from _of_texts(one, other, where)
    else:
        assert one == other, f"{where}: {one!r}, {other!r}"


def _of_numbers(one: float, other: float, where: str) -> float:
    size, difference = max(abs(one), abs(other)), abs(one - other)
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    assert difference <= ABSOLUTE + RELATIVE * size, f"{where}: {one!r}, {other!r}"
    return difference / max(size, ABSOLUTE / RELATIVE)


def _of_texts(one: str, other: str, where: str) -> Iterator[float]:
    """Compare texts whose numbers are rounded, with pictures in them."""
    if one == other:
        return
    for first, second in zip(*(_DATA_URL.findall(text) for text in (one, other)), strict=True):
        if first != second:
            yield from _of_pictures(base64.b64decode(first), base64.b64decode(second), where)
    one, other = (normalise(_DATA_URL.sub("<picture>", text), {}) for text in (one, other))
    numbers = [[float(number) for number in _NUMBER.findall(text)] for text in (one, other)]
    plain = [_NUMBER.sub("<number>", text) for text in (one, other)]
    assert plain[0] == plain[1], f"{where}:\n{excerpt(*plain)}"
    for first_number, second_number in zip(*numbers, strict=True):
        yield _of_numbers(first_number, second_number, where)


def _of_pictures(one: bytes, other: bytes, where: str) -> Iterator[float]:
    """Compare pictures: a level that is rounded may be its neighbour."""
    first, second = (np.asarray(Image.open(io.BytesIO(content)), np.int16) for content in (one, other))
    assert first.shape == second.shape, where
    largest = int(np.abs(first - second).max())
    assert largest <= 1, f"{where}: {largest} levels"
    yield largest / 255
