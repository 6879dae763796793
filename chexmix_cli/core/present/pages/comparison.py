"""Results side by side as a page: the headline open, all other numbers folded below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chexmix_cli.core.present.pages.render import render


def comparison_page(names: Sequence[str], rows: Sequence[Mapping[str, Any]], *, headline: Mapping[str, str]) -> str:
    """Return the page of a comparison; it has no script.

    Args:
        names: of the results; the others are compared with the first.
        rows: a number each: ``id``, ``first`` (value) and ``others``: for each other result ``second``, ``interval``
            (of the difference), ``remark`` and ``is_significant``, or None where it has no such number.
        headline: ids of the numbers that are shown first, each with a short name.
    """
    first = [{**row, "id": headline[row["id"]]} for row in rows if row["id"] in headline]
    rest = [row for row in rows if row["id"] not in headline]
    return render(
        "comparison",
        title=f"chexmix evaluate diff: {', '.join(names)}",
        names=list(names),
        parts=[("Headline", first, True), (f"{len(rest)} more numbers", rest, not first)],
    )
