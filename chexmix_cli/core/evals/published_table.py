"""The published result table as protocols: the commands that measure each row, their needs, which number it is."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.evals.result import Evaluation, Measurement


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command of a run.

    Attributes:
        command: arguments of ``chexmix``; ``{manifest}``, ``{judge}``, ``{predictions}`` and ``{result}`` are files.
        stdin, stdout: which of these files it reads and writes, or None.
        uses_model: takes ``--weights`` and what goes with it.
    """

    command: tuple[str, ...]
    stdin: str | None = None
    stdout: str | None = None
    uses_model: bool = True

    def arguments(self, files: Mapping[str, str]) -> list[str]:
        """Return the arguments with the files' names in them."""
        return [part.format(**files) for part in self.command]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One measurement, which one or more rows are read off.

    Attributes:
        name: of its files.
        manifest: by which name the user gives its images.
        steps: commands, in order.
        sample: so many of the rows that are evaluated are drawn; None takes all.
        keeps_train: train rows are needed too.
        needs_judge: a GREEN judge's weights are needed.
    """

    name: str
    manifest: str
    steps: tuple[Step, ...]
    sample: int | None = None
    keeps_train: bool = False
    needs_judge: bool = False

    def rows(self, rows: Sequence[ManifestRow], split: str) -> list[ManifestRow]:
        """Return the rows the run is made on, in their order: the sample of the split, and train rows if needed.

        The sample is those whose ids hash lowest, so it depends neither on the order of the manifest nor on a state.
        """
        chosen = [row for row in rows if row.split == split]
        if self.sample is not None and self.sample < len(chosen):
            chosen = sorted(chosen, key=lambda row: blake2b(row.id.encode("utf-8", "surrogateescape")).digest())
            chosen = chosen[: self.sample]
        kept = {row.id for row in chosen}
        return [row for row in rows if row.id in kept or (self.keeps_train and row.split == "train")]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """One row of the table.

    Attributes:
        task, data, metric: as published.
        published: CheXmix's value.
        run: name of the run that measures it.
        select: name and protocol fields of the row's number; several where the table does not say which it is.
        scale: what these numbers are multiplied by to stand in the published unit.
    """

    task: str
    data: str
    metric: str
    published: float
    run: str
    select: tuple[Mapping[str, str], ...]
    scale: float = 1.0

    def find(self, evaluation: Evaluation) -> list[Measurement]:
        """Return the row's numbers.

        Raises:
            SettingsError: if one of them is not there just once: protocol and evaluation have grown apart.
        """
        return [self._find(evaluation, dict(wanted)) for wanted in self.select]

    def _find(self, evaluation: Evaluation, wanted: dict[str, str]) -> Measurement:
        name = wanted.pop("name")
        found = [
            one
            for one in evaluation.measurements
            if one.name == name and all(one.fields.get(key) == value for key, value in wanted.items())
        ]
        if len(found) != 1:
            raise SettingsError(f"{len(found)} numbers named {name} fit {wanted}", where=self.task, expected="one")
        return found[0]


def published_table() -> tuple[list[PublishedRow], dict[str, Run]]:
    """Return the rows in their order and the runs by name."""
    path = Path(__file__).with_name("protocols.toml")
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    runs = {one["name"]: Run(**{**one, "steps": tuple(_steps(one["steps"]))}) for one in values["runs"]}
    rows = [PublishedRow(**{**one, "select": tuple(one["select"])}) for one in values["rows"]]
    assert all(row.run in runs for row in rows), "a row names a run"
    return rows, runs


def missing(run: Run, manifests: Iterable[str], *, has_judge: bool) -> list[str]:
    """Return what the user has not given for a run, as the options that would give it."""
    found = [] if run.manifest in manifests else [f"--manifest {run.manifest}=MANIFEST"]
    return found + (["--judge DIR"] if run.needs_judge and not has_judge else [])


def _steps(values: Iterable[Mapping[str, Any]]) -> Iterable[Step]:
    for one in values:
        yield Step(**{**one, "command": tuple(one["command"])})
