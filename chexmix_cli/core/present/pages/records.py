"""The records of one command as a page: a card a record, its pictures, its numbers; what failed, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chexmix_cli.core.present.pages.pictures import Picture
from chexmix_cli.core.present.pages.render import plain, render

#: Fields with a place of their own on a card; of no use to a reader; or shown elsewhere on the page.
_PLACED = frozenset({"id", "status", "error", "report", "probabilities", "notes", "conflicts", "results", "mark"})
_PLACED |= {"head", "validation_auroc", "sentences", "files", "file"}
_UNREAD = frozenset({"token_ids", "codes", "embeddings", "preset_hash", "provenance", "picture", "panels", "samples"})


@dataclass(frozen=True, slots=True)
class _Card:
    """What a template shows of a record."""

    id: str
    record: Mapping[str, Any]
    pictures: Sequence[Picture]
    findings: list[tuple[str, float, float | None, float | None]]
    details: list[tuple[str, str]]


def records_page(
    command: str,
    records: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Sequence[Picture]],
    *,
    found: Mapping[str, bytes] | None = None,
    names: Mapping[str, str] | None = None,
) -> str:
    """Return the page of a command's records; it has no script.

    Args:
        command: that made them, such as ``classify``.
        records: as it writes them, failed ones among them, in order.
        pictures: of a record, by its id.
        found: pictures of what queries found, by its id.
        names: the file's name, by id: the page then says that it names files.
    """
    done = [record for record in records if record["status"] == "ok"]
    failed = [record for record in records if record["status"] != "ok"]
    return render(
        "records",
        title=f"chexmix {command}: {len(done)} of {len(records)} done",
        cards=[_card(record, pictures.get(str(record["id"]), ())) for record in done],
        failed=failed,
        found=found or {},
        names=names or {},
    )


def _card(record: Mapping[str, Any], pictures: Sequence[Picture]) -> _Card:
    details = [(name, plain(value)) for name, value in record.items() if name not in _PLACED | _UNREAD]
    return _Card(str(record["id"]), record, pictures, _findings(record), details)


def _findings(record: Mapping[str, Any]) -> list[tuple[str, float, float | None, float | None]]:
    """Return findings with probability, threshold and AUROC in validation, the most probable first."""
    head = record.get("head") or {}
    probabilities = record.get("probabilities") or head.get("probabilities") or {}
    thresholds = head.get("threshold") or {}
    known = record.get("validation_auroc") or head.get("validation_auroc") or {}
    found = [(name, float(value), thresholds.get(name), known.get(name)) for name, value in probabilities.items()]
    return sorted(found, key=lambda one: -one[1])
