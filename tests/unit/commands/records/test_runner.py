"""The record loop with fakes: order, batches, what fails, when records come out."""

from __future__ import annotations

import io
import json
import sys

import pytest

from chexmix_cli.commands.records.runner import Loop, Tally
from chexmix_cli.commands.records.sinks import Sinks
from chexmix_cli.commands.shared.options import RunOptions
from chexmix_cli.core.errors import DataError, ExitCode, MachineError, Reason, ShapeError
from chexmix_cli.library.jobs.job import Job


class Bench:
    """A loop over small numbers. A negative number cannot be prepared, 13 spoils its batch."""

    def __init__(self, monkeypatch, *, batch_size=2, fail_fast=False):
        self.stdout = io.StringIO()
        monkeypatch.setattr(sys, "stdout", self.stdout)
        self.batches: list[list[int]] = []
        self.loop = Loop(
            process=self._process,
            describe=lambda record: record["id"],
            batch_size=batch_size,
            sinks=Sinks(RunOptions(is_json=True, fail_fast=fail_fast)),
        )

    def run(self, numbers) -> Tally:
        return self.loop.run((Job(f"n{number}", self._prepare(number)) for number in numbers), "numbers")

    @property
    def records(self):
        return [json.loads(line) for line in self.stdout.getvalue().splitlines()]

    @staticmethod
    def _prepare(number):
        def prepare():
            if number < 0:
                raise DataError(Reason.CORRUPT, "negative", hint="take another")
            return number

        return prepare

    def _process(self, items):
        numbers = list(items)
        self.batches.append(numbers)
        if 13 in numbers:
            raise ShapeError("thirteen")
        return [{"square": number**2} for number in numbers]


def test_records_come_in_order_and_in_batches(monkeypatch):
    bench = Bench(monkeypatch)
    tally = bench.run([1, 2, 3, 4, 5])
    assert bench.records == [{"id": f"n{n}", "status": "ok", "square": n * n} for n in (1, 2, 3, 4, 5)]
    assert bench.batches == [[1, 2], [3, 4], [5]]
    assert tally.exit_code == ExitCode.DONE


def test_what_cannot_be_prepared_keeps_its_place_and_counts_in_its_batch(monkeypatch, capsys):
    bench = Bench(monkeypatch)
    tally = bench.run([1, -2, 3, 4])
    assert [(record["id"], record["status"]) for record in bench.records] == [
        ("n1", "ok"),
        ("n-2", "error"),
        ("n3", "ok"),
        ("n4", "ok"),
    ]
    assert bench.records[1]["error"] == {"code": "CORRUPT", "message": "negative; hint: take another"}
    assert bench.batches == [[1], [3, 4]]
    assert tally.exit_code == ExitCode.PARTIAL
    assert capsys.readouterr().err.splitlines() == ["3 of 4 records done; 1 not:", "CORRUPT\t1"]


def test_batches_are_a_function_of_the_list(monkeypatch):
    """Whoever begins at the first input of any batch computes each film together with the same others."""
    numbers = [-1, 2, 3, 4, -5, -6, 7, 8, 9, -10, 11]
    whole = Bench(monkeypatch, batch_size=3)
    whole.run(numbers)
    pieces = []
    for start in range(0, len(numbers), 3):
        bench = Bench(monkeypatch, batch_size=3)
        bench.run(numbers[start : start + 3])
        pieces += bench.batches
    assert whole.batches == pieces == [[2, 3], [4], [7, 8, 9], [11]]


def test_one_that_spoils_its_batch_costs_the_others_nothing(monkeypatch):
    bench = Bench(monkeypatch, batch_size=3)
    bench.run([1, 13, 3])
    assert [record.get("square") for record in bench.records] == [1, None, 9]
    assert bench.records[1]["error"] == {"code": "SHAPE", "message": "thirteen"}
    assert bench.batches == [[1, 13, 3], [1], [13], [3]]


def test_nothing_at_all_done_is_a_failure(monkeypatch):
    assert Bench(monkeypatch).run([-1, -2]).exit_code == ExitCode.FAILED


def test_no_record_at_all_is_no_failure(monkeypatch):
    """An empty stdin is an empty answer, as with every filter."""
    assert Bench(monkeypatch).run([]).exit_code == ExitCode.DONE


def test_an_error_with_nothing_before_it_is_out_before_the_next_record_is_looked_at(monkeypatch):
    bench = Bench(monkeypatch)
    seen = []

    def numbers():
        for number in (-1, -2, 3):
            seen.append(len(bench.records))
            yield number

    bench.run(numbers())
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(("numbers", "before"), [([1, -2, 3], ["n1"]), ([1, 13, 3], ["n1"]), ([-1, 2], [])])
def test_fail_fast_writes_what_came_before_and_raises_the_reason(monkeypatch, numbers, before):
    bench = Bench(monkeypatch, batch_size=3, fail_fast=True)
    with pytest.raises((DataError, ShapeError), match="negative|thirteen"):
        bench.run(numbers)
    assert [record["id"] for record in bench.records] == before


def test_what_concerns_the_machine_ends_the_loop(monkeypatch):
    bench = Bench(monkeypatch)

    def fail(items):
        raise MachineError("not enough memory")

    object.__setattr__(bench.loop, "process", fail)
    with pytest.raises(MachineError, match="memory"):
        bench.run([1, 2])
    assert bench.records == []
