"""Probabilities that another command, or another program, wrote: JSON Lines as ``chexmix classify`` gives them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import DataError, Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Rows with their probabilities.

    Attributes:
        rows: those that have some, in the manifest's order.
        names: labels of the probabilities.
        prob_RK: theirs.
        failed: ids without usable probabilities, with the reason: none is dropped without a word.
    """

    rows: list[ManifestRow]
    names: list[str]
    prob_RK: NDArray[np.float64]
    failed: list[tuple[str, DataError]]


def match_predictions(lines: Iterable[str], rows: Sequence[ManifestRow], where: str) -> Predictions:
    """Return the predictions of rows.

    Args:
        lines: ``{"id": ..., "probabilities": {label: p}}``, or a record of an input that failed; others of the
            manifest's splits may be among them.
        rows: of the split that is evaluated.
        where: what the lines come from.

    Raises:
        DataError: on a line that is no record, an id that comes twice, or if no row has a prediction.
    """
    found = _records(lines, where)
    names: list[str] = []
    kept: list[ManifestRow] = []
    probs: list[list[float]] = []
    failed: list[tuple[str, DataError]] = []
    for row in rows:
        record = found.get(row.id)
        try:
            values = _probabilities(record)
            names = names or list(values)
            if set(values) != set(names):
                raise DataError(Reason.BAD_RECORD, f"labels {', '.join(values)}", expected=", ".join(names))
        except DataError as error:
            failed.append((row.id, error))
            continue
        kept.append(row)
        probs.append([values[name] for name in names])
    if not kept:
        raise DataError(
            Reason.NOT_FOUND,
            f"none of {len(rows)} rows has a prediction",
            where=where,
            expected="records with the ids of the manifest",
            hint="chexmix classify - < manifest.jsonl keeps them",
        )
    return Predictions(rows=kept, names=names, prob_RK=np.array(probs, np.float64), failed=failed)


def _records(lines: Iterable[str], where: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            record = json.loads(line)
        except ValueError:
            raise DataError(
                Reason.BAD_RECORD, "not JSON", where=place, expected="a record of chexmix classify"
            ) from None
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise DataError(Reason.BAD_RECORD, "no id", where=place, expected="a record of chexmix classify")
        if record["id"] in found:
            raise DataError(Reason.DUPLICATE, "an id comes twice", where=place)
        found[record["id"]] = record
    return found


def _probabilities(record: dict[str, Any] | None) -> dict[str, float]:
    if record is None:
        raise DataError(Reason.NOT_FOUND, "no prediction")
    if record.get("status") == "error":
        error = record.get("error")
        code = error.get("code", "unknown") if isinstance(error, dict) else "unknown"
        raise DataError(Reason.UPSTREAM, f"failed before: {code}")
    values = record.get("probabilities")
    if not isinstance(values, dict) or not values or not all(map(_is_probability, values.values())):
        raise DataError(Reason.BAD_RECORD, "no probabilities", expected="{label: number in 0..1}")
    return {str(name): float(value) for name, value in values.items()}


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
