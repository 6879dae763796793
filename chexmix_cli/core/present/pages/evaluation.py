"""One evaluation as a page: what a reader wants first (headline numbers, plots, cases), protocols folded away below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from chexmix_cli.core.present.pages.render import render

#: Numbers on top where the evaluation marks none as ``headline``.
_MOST_HEADLINES = 8


class ShownCase(Protocol):
    """A case (``core/evals/result.py: Case``)."""

    @property
    def id(self) -> str:
        """Return the item's id."""

    @property
    def group(self) -> str:
        """Return the heading it stands under."""

    @property
    def texts(self) -> Mapping[str, str]:
        """Return texts by heading."""

    @property
    def pictures(self) -> Mapping[str, bytes]:
        """Return PNG bytes by caption."""


def evaluation_page(record: Mapping[str, Any], cases: Sequence[ShownCase], plots: Mapping[str, bytes]) -> str:
    """Return the page of one evaluation; it has no script.

    Args:
        record: ``Evaluation.to_dict()``; a metric with ``headline`` true stands on top.
        cases: best and worst items.
        plots: PNG bytes by the curve's name, in order.
    """
    headlines = headline_metrics(record["metrics"])
    titles = {curve["name"]: curve["title"] for curve in record["curves"]}
    groups = {group: [case for case in cases if case.group == group] for group in dict.fromkeys(c.group for c in cases)}
    return render(
        "evaluation",
        title=f"chexmix evaluation: {record['task']}",
        headlines=[(one, _telling(one, headlines)) for one in headlines],
        metrics=record["metrics"],
        plots=[(titles.get(name, name), png) for name, png in plots.items()],
        groups=groups,
        facts={heading: record[key] for heading, key in (("Model", "model"), ("Data", "data")) if record[key]},
        missing=record["missing"],
        failed=record["failed"],
        made_by=record["version"],
    )


def headline_metrics(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the numbers that stand on top: those marked so, else the first that have a value."""
    marked = [one for one in metrics if one.get("headline")]
    return marked or [one for one in metrics if one["value"] is not None][:_MOST_HEADLINES]


def _telling(metric: Mapping[str, Any], headlines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the fields by which a number differs from the others of its name; the rest stands in the table."""
    others = [one["fields"] for one in headlines if one["name"] == metric["name"]]
    return {name: value for name, value in metric["fields"].items() if any(one.get(name) != value for one in others)}
