"""How much of a parser damaged inputs reach: of the functions that any of them enters, the share of lines run."""

from __future__ import annotations

import ast
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
from harness import damaged, judge, keep_sound, put_back
from parsers import Parser

import chexmix_cli

_PACKAGE = Path(chexmix_cli.__file__).parent


def lines_reached(parser: Parser, folder: Path, num_inputs: int) -> dict[str, int]:
    """Return how many ``lines`` the functions have that are entered, and how many of them are ``reached``.

    Lines of a module, which run when it is imported, do not count. In a process of its own, as one input may end it.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_count, args=(parser, folder, num_inputs, sender))
    process.start()
    sender.close()
    found: dict[str, int] = receiver.recv()
    process.join()
    return found


def _count(parser: Parser, folder: Path, num_inputs: int, results: Any) -> None:
    targets = parser.seeds(folder)
    keep_sound(targets)
    seeds = [target.read_bytes() for target in targets]
    measured = coverage.Coverage(data_file=None, config_file=False, include=[f"{_PACKAGE}/*"])
    measured.start()
    for target in targets:
        judge(parser, target)
        put_back(target)
    for number in range(num_inputs):
        place, data, _ = damaged(seeds, parser, number)
        targets[place].write_bytes(data)
        judge(parser, targets[place])
        put_back(targets[place])
    measured.stop()
    lines = reached = 0
    for path in measured.get_data().measured_files():
        _, statements, _, missing, _ = measured.analysis2(path)
        run = set(statements) - set(missing)
        for body in _bodies(Path(path)):
            if run & body:
                lines += len(body & set(statements))
                reached += len(body & run)
    results.send({"inputs": num_inputs, "lines": lines, "reached": reached})
    results.close()
    os._exit(0)


def _bodies(path: Path) -> Iterator[set[int]]:
    """Yield the lines of each function, without those of functions and classes within."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = {line for part in function.body for line in range(part.lineno, _end(part) + 1)}
            for part in ast.walk(function):
                if part is not function and isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    lines -= set(range(part.lineno, _end(part) + 1))
            yield lines


def _end(part: ast.stmt) -> int:
    return part.end_lineno or part.lineno
