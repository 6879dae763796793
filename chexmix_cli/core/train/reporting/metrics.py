"""What a run says about itself: sums between two reports, and RUN/metrics.jsonl."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.files import naming, write_text
from chexmix_cli.core.train.distributed import is_main, sum_over_ranks
from chexmix_cli.core.train.reporting.loggers import Logger
from chexmix_cli.core.train.task import Work

#: Figures of a record that depend on the clock: two runs that are the same differ in them.
CLOCK_FIGURES = ("examples_per_s", "tokens_per_s", "mfu")


class Window:
    """Sums since the last report, over all ranks.

    Args:
        saved: of an earlier window that a checkpoint interrupted (:meth:`to_json`); its speed is not carried on.
    """

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        self._sums: dict[str, list[float]] = {name: list(pair) for name, pair in (saved or {}).items()}
        self._seconds = 0.0
        self._examples = self._tokens = self._flop = 0

    def add(self, sums: dict[str, tuple[float, float]], num_examples: int, work: Work, seconds: float) -> None:
        """Add a step's sums, name -> (sum, number of units), what it learnt from, and how long it took."""
        for name, (value, count) in sums.items():
            before = self._sums.setdefault(name, [0.0, 0.0])
            before[0] += value
            before[1] += count
        self._examples += num_examples
        self._tokens += work.tokens
        self._flop += work.flop
        self._seconds += seconds

    def means(self) -> dict[str, float]:
        """Return the mean a unit of each sum that has units."""
        return {name: value / count for name, (value, count) in self._sums.items() if count}

    def rates(self, peak_flop_per_s: float) -> dict[str, float]:
        """Return :data:`CLOCK_FIGURES` of this window's steps; validation and checkpoints between them do not count.

        Args:
            peak_flop_per_s: of all ranks together, which ``mfu`` is the share of.
        """
        values = (self._examples, self._tokens, self._flop / peak_flop_per_s)
        # Pooled states have no tokens: what is not read has no rate.
        return {name: value / self._seconds for name, value in zip(CLOCK_FIGURES, values, strict=True) if value}

    def to_json(self) -> dict[str, list[float]]:
        """Return the sums for a checkpoint; JSON keeps a float to the bit."""
        return {name: list(pair) for name, pair in self._sums.items()}


class StepSums:
    """Sums of one step on this rank, joined with the others' at its end."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, sums: dict[str, tuple[Tensor, int]]) -> None:
        """Add a micro-batch's sums."""
        for name, (value, count) in sums.items():
            before, counted = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = (before + value, counted + count)

    def over_ranks(self) -> dict[str, tuple[float, float]]:
        """Return the sums over all ranks, name -> (sum, number of units)."""
        names = sorted(self._sums)
        counts = torch.tensor([float(self._sums[name][1]) for name in names], dtype=torch.float64)
        # One wait for all of them, on a GPU.
        values = torch.stack([self._sums[name][0] for name in names]).cpu().double() if names else counts
        local = torch.stack((values, counts), dim=1)
        return {
            name: (value, count) for name, (value, count) in zip(names, sum_over_ranks(local).tolist(), strict=True)
        }


def extend_order(order: str, step: int, ids: list[str]) -> str:
    """Return the hash of all batches so far: of that before ``step``, and the examples of ``step`` in order."""
    return hashlib.sha256(json.dumps([order, step, ids]).encode()).hexdigest()[:16]


class RunLog:
    """RUN/metrics.jsonl, append-only JSON Lines that read like one uninterrupted run, and what else is told.

    Rank 0 writes; on the others nothing happens.

    Args:
        out: the run folder.
        step: steps done by the checkpoint the run resumes from; lines after it, of an earlier attempt, are dropped.
        loggers: that get each record too; closed with this.
    """

    def __init__(self, out: Path, step: int, loggers: Sequence[Logger] = ()) -> None:
        self._path = out / "metrics.jsonl"
        self._loggers = loggers
        if not is_main():
            return
        kept = [line for line in read_metrics(self._path) if line["step"] <= step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record and flush it."""
        if not is_main():
            return
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        figures = {name: value for name, value in record.items() if isinstance(value, float)}
        for logger in self._loggers:
            logger.log(record["step"], figures)

    def close(self) -> None:
        """Close what is open."""
        for logger in self._loggers:
            logger.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, without a half-written line; none where there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            # The last line of a killed run may be half written, or empty; its step is done again.
            continue
    return lines
