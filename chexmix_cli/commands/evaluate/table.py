"""``chexmix evaluate table``: the published result table, each row by its own commands, ours next to theirs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL
from chexmix_cli.commands.shared.wrapping import draw_table
from chexmix_cli.core.errors import DataError, ExitCode, Reason, SettingsError
from chexmix_cli.core.files import write_text
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.core.evals.published_table import PublishedRow, Run
    from chexmix_cli.core.evals.result import Measurement

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--manifest", metavar="NAME=MANIFEST", help="Images of some rows: reports, rexgradient, images or chexpert."
    ),
]
Judge = Annotated[Path | None, typer.Option("--judge", metavar="DIR", help="Weights of a GREEN judge.")]
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="Folder of predictions and results; finished ones are kept.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What the runs have in common."""

    manifests: dict[str, Path]
    judge: Path | None
    folder: Path
    model: tuple[str, ...]
    console: Console


@command(None, *MODEL, "is_json")
def table(
    call: Call[None],
    data: Data = None,
    judge: Judge = None,
    results: Results = Path("results"),
) -> int:
    """Measure the rows of the published table whose data and weights are given; say what the others need.

    Each row is one or two commands, which its record names; they run in processes of their own. An existing result
    already, made by the same command from the same manifest and weights, is not made again.

    Examples:

        chexmix evaluate table

        chexmix evaluate table --manifest chexpert=chexpert.jsonl --manifest images=chexpert.jsonl --weights chexmix
    """
    from chexmix_cli.core.evals.published_table import missing, published_table
    from chexmix_cli.core.weights import open_weights

    options, writer = call.options, Writer(call.options.is_json)
    rows, runs = published_table()
    manifests = _named_files(data or [], {run.manifest for run in runs.values()})
    chosen = {"--weights": options.weights, "--device": options.device, "--dtype": options.dtype}
    model = tuple(part for flag, value in chosen.items() if value not in (None, "auto") for part in (flag, str(value)))
    fingerprint = open_weights(options.weights).fingerprint if manifests else ""
    job = _Job(manifests=manifests, judge=judge, folder=results, model=model, console=call.console)
    done: dict[str, Any] = {}
    for name, run in runs.items():
        if not missing(run, manifests, has_judge=judge is not None):
            done[name] = _attempt(run, job, fingerprint)
    records = [
        _record(
            row,
            runs[row.run],
            missing(runs[row.run], manifests, has_judge=judge is not None),
            done.get(row.run),
            job,
        )
        for row in rows
    ]
    if writer.is_text:
        writer.show(_drawn(records) + "\n")
    else:
        for record in records:
            writer.write(record, "")
    has_failed = any(record["status"] == "error" for record in records)
    return ExitCode.PARTIAL if has_failed else ExitCode.DONE


def _named_files(data: list[str], known: set[str]) -> dict[str, Path]:
    found = {}
    for text in data:
        name, separator, path = text.partition("=")
        if not separator or name not in known:
            names = ", ".join(f"{one}=MANIFEST" for one in sorted(known))
            raise SettingsError(f"is {text!r}", where="--manifest", expected=f"one of {names}")
        found[name] = Path(path)
    return found


def _attempt(run: Run, job: _Job, fingerprint: str) -> Any:
    """Return the evaluation of a run, or what went wrong."""
    from chexmix_cli.core.evals.result import read_evaluation

    try:
        result = _run(run, job, fingerprint)
        return read_evaluation(json.loads(result.read_text(encoding="utf-8")), result.name)
    except DataError as error:
        return error


def _run(run: Run, job: _Job, fingerprint: str) -> Path:
    """Run the commands of a run unless they have been, and return the result's file."""
    from chexmix_cli.core.data.manifest import read_manifest, write_manifest
    from chexmix_cli.library.evaluation.rows import evaluation_rows

    source = job.manifests[run.manifest]
    split, _ = evaluation_rows(source, None)
    files = {name: str(path) for name, path in _files(run, job).items()}
    write_manifest(Path(files["manifest"]), run.rows(list(read_manifest(source)), split))
    commands = [_arguments(run, index, job) for index in range(len(run.steps))]
    digest = sha256(Path(files["manifest"]).read_bytes()).hexdigest()
    request = json.dumps({"commands": commands, "manifest": digest, "model": fingerprint})
    result, marker = Path(files["result"]), Path(files["request"])
    if result.is_file() and marker.is_file() and marker.read_text(encoding="utf-8") == request:
        job.console.note(f"{run.name}: {result} exists already")
        return result
    marker.unlink(missing_ok=True)
    for step, arguments in zip(run.steps, commands, strict=True):
        job.console.note(f"{run.name}: chexmix {shlex.join(arguments)}")
        _call(arguments, step.stdin and files[step.stdin], step.stdout and files[step.stdout], run.name)
    write_text(marker, request)
    return result


def _files(run: Run, job: _Job) -> dict[str, Path]:
    return {
        "manifest": job.folder / f"{run.name}.manifest.jsonl",
        "predictions": job.folder / f"{run.name}.predictions.jsonl",
        "result": job.folder / f"{run.name}.json",
        "request": job.folder / f"{run.name}.request.json",
        "judge": Path("DIR") if job.judge is None else job.judge,
    }


def _arguments(run: Run, index: int, job: _Job) -> list[str]:
    step = run.steps[index]
    arguments = step.arguments({name: str(path) for name, path in _files(run, job).items()})
    return [*arguments, *(job.model if step.uses_model else ())]


def _call(arguments: list[str], stdin: str | None, stdout: str | None, name: str) -> None:
    """Run one command; its records go to ``stdout``, its messages to ours.

    Raises:
        DataError: if it ends with anything but 0 or 3 (some records failed: the result says so).
    """
    target = None if stdout is None else Path(f"{stdout}.partial")
    reading = subprocess.DEVNULL if stdin is None else Path(stdin).open("rb")  # noqa: SIM115 (closed below)
    writing = subprocess.DEVNULL if target is None else target.open("wb")
    try:
        command = [sys.executable, "-m", "chexmix_cli", *arguments]
        code = subprocess.run(command, stdin=reading, stdout=writing, check=False).returncode
    finally:
        for stream in (reading, writing):
            if not isinstance(stream, int):
                stream.close()
    if code not in (ExitCode.DONE, ExitCode.PARTIAL):
        raise DataError(Reason.UPSTREAM, f"`chexmix {' '.join(arguments[:2])}` ended with {code}", where=name)
    if target is not None:
        target.replace(str(stdout))


def _record(row: PublishedRow, run: Run, lacking: list[str], found: Any, job: _Job) -> Record:
    record: Record = {
        "id": f"{row.task}|{row.data}|{row.metric}",
        "status": "ok",
        "published": row.published,
        "measured": [],
        "missing": lacking,
        "commands": [_shell(run, index, job) for index in range(len(run.steps))],
    }
    if isinstance(found, DataError):
        record |= {"status": "error", "error": {"code": found.code, "message": str(found)}}
    elif found is not None:
        record["measured"] = [_measured(one, row.scale) for one in row.find(found)]
    return record


def _measured(one: Measurement, scale: float) -> Record:
    interval = None if one.interval is None else [bound * scale for bound in one.interval]
    value = None if one.value is None else one.value * scale
    reason = {} if one.reason is None else {"reason": one.reason}
    return {"value": value, "interval": interval, "n": one.n, "signature": one.signature, **reason}


def _shell(run: Run, index: int, job: _Job) -> str:
    step, files = run.steps[index], _files(run, job)
    text = f"chexmix {shlex.join(_arguments(run, index, job))}"
    reading = "" if step.stdin is None else f" < {shlex.quote(str(files[step.stdin]))}"
    return text + reading + ("" if step.stdout is None else f" > {shlex.quote(str(files[step.stdout]))}")


def _drawn(records: list[Record]) -> str:
    rows = []
    for record in records:
        task, data, metric = record["id"].split("|")
        numbers = ["-" if one["value"] is None else f"{one['value']:.4g}" for one in record["measured"]]
        names = _telling_apart([one["signature"] for one in record["measured"]])
        values = "\n".join(f"{name} {number}".strip() for name, number in zip(names, numbers, strict=True))
        notes = [one["reason"] for one in record["measured"] if "reason" in one]
        notes += ["needs " + " and ".join(record["missing"])] if record["missing"] else []
        notes += [record["error"]["message"]] if "error" in record else []
        count = str(record["measured"][0]["n"]) if record["measured"] else ""
        rows.append((task, data, metric, f"{record['published']:g}", values, count, "; ".join(notes)))
    return draw_table(("task", "data", "metric", "published", "ours", "n", ""), rows)


def _telling_apart(signatures: list[str]) -> list[str]:
    """Return, for each number of a row, the parts of its signature that another one of the row has otherwise."""
    parts = [signature.split("|") for signature in signatures]
    return [" ".join(part for part in own if any(part not in other for other in parts)) for own in parts]
