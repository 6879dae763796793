"""What a run says about itself: sums between two reports, RUN/metrics.jsonl, TensorBoard where it is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.files import naming, write_text
from chexmix_cli.core.train.distributed import is_main, sum_over_ranks


class Window:
    """Sums since the last report, over all ranks.

    Args:
        saved: of an earlier window that a checkpoint interrupted (:meth:`to_json`).
    """

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        self._sums: dict[str, list[float]] = {name: list(pair) for name, pair in (saved or {}).items()}
        self._started = time.perf_counter()
        self._examples = 0

    def add(self, sums: dict[str, tuple[float, float]], num_examples: int) -> None:
        """Add a step's sums, name -> (sum, number of units), and its examples."""
        for name, (value, count) in sums.items():
            before = self._sums.setdefault(name, [0.0, 0.0])
            before[0] += value
            before[1] += count
        self._examples += num_examples

    def means(self) -> dict[str, float]:
        """Return the mean a unit of each sum that has units."""
        return {name: value / count for name, (value, count) in self._sums.items() if count}

    def examples_per_s(self) -> float:
        """Return the rate, of all ranks together, since this window was made."""
        return self._examples / (time.perf_counter() - self._started)

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
    """RUN/metrics.jsonl, append-only JSON Lines that read like one uninterrupted run, with RUN/tensorboard.

    Rank 0 writes; on the others nothing happens.

    Args:
        out: the run folder.
        step: steps done by the checkpoint the run resumes from; lines after it, of an earlier attempt, are dropped.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._path = out / "metrics.jsonl"
        self._board: Any = None
        if not is_main():
            return
        kept = [line for line in read_metrics(self._path) if line["step"] <= step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record and flush it."""
        if not is_main():
            return
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()


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
