"""RUN/metrics.jsonl: one line a report, cut back on resume so that it reads like one uninterrupted run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chexmix_cli.core.weights.files import write_text


class MetricsLog:
    """Append-only JSON Lines; lines behind ``step`` of an earlier try are dropped first.

    Args:
        path: the file.
        step: steps done by the checkpoint the run goes on from.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = [line for line in _lines(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record and flush it."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            # The last line of a killed run may be half written; its step is done again.
            continue
    return lines
