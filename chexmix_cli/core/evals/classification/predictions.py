"""Probabilities that another command, or another program, wrote: JSON Lines as ``chexmix classify`` gives them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import finding_name
from chexmix_cli.core.data.lines import id_text
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.studies.ids import unknown_ids
from chexmix_cli.core.errors import DataError, Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Rows with their probabilities.

    Attributes:
        rows: those that have some, in the manifest's order.
        names: labels of the probabilities.
        prob_RK: theirs.
        failed: ids without usable probabilities, and ids that the manifest does not have, with the reason: none is
            dropped without a word.
    """

    rows: list[ManifestRow]
    names: list[str]
    prob_RK: NDArray[np.float64]
    failed: list[tuple[str, DataError]]


def match_predictions(
    records: Iterable[tuple[str, Mapping[str, Any]]], rows: Sequence[ManifestRow], ids: Collection[str], where: str
) -> Predictions:
    """Return the predictions of rows.

    Args:
        records: ``{"id": ..., "probabilities": {label: p}}``, or a record of an input that failed, each with where it
            stands; others of the manifest's splits may be among them.
        rows: of the split that is evaluated.
        ids: of the whole manifest.
        where: what the records come from.

    Raises:
        DataError: on a record without an id, an id that comes twice, or if no row has a prediction; the message says
            why the first has none.
    """
    found = _by_id(records)
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
    unknown = unknown_ids(found, ids, "no row of the manifest")
    if not kept:
        first = f"; the first: {failed[0][1]}" if failed else ""
        raise DataError(
            Reason.NOT_FOUND,
            f"none of {len(rows)} rows has a prediction{first}",
            where=where,
            expected="records with the ids of the manifest",
            hint=next((error.hint for _, error in unknown), None) or "chexmix classify - < manifest.jsonl keeps them",
        )
    return Predictions(rows=kept, names=names, prob_RK=np.array(probs, np.float64), failed=[*failed, *unknown])


def _by_id(records: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for where, record in records:
        item_id = id_text(record.get("id"))
        if item_id is None:
            raise DataError(Reason.BAD_RECORD, "no id", where=where, expected="a record of chexmix classify")
        if item_id in found:
            raise DataError(Reason.DUPLICATE, "an id comes twice", where=where)
        found[item_id] = record
    return found


def _probabilities(record: Mapping[str, Any] | None) -> dict[str, float]:
    if record is None:
        raise DataError(Reason.NOT_FOUND, "no prediction")
    if record.get("status") == "error":
        error = record.get("error")
        code = error.get("code", "unknown") if isinstance(error, dict) else "unknown"
        raise DataError(Reason.UPSTREAM, f"failed before: {code}")
    values = record.get("probabilities")
    if not isinstance(values, dict) or not values or not all(map(_is_probability, values.values())):
        raise DataError(Reason.BAD_RECORD, "no probabilities", expected="{label: number in 0..1}")
    named = {finding_name(str(name)): float(value) for name, value in values.items()}
    if len(named) != len(values):
        raise DataError(Reason.BAD_RECORD, "a label comes in two spellings", expected="one probability a label")
    return named


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
