"""``chexmix data merge`` and ``chexmix data info``: shares joined; shard sets described and checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.records.streams import Writer, error_record
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.core.errors import DataError, ExitCode, MachineError, counted
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.core.data.shards import ShardSet

Sets = Annotated[
    list[Path],
    typer.Argument(
        metavar="PART", help="Folders of `chexmix tokenize -o`, those inside included; or record files of all shares."
    ),
]
ShardSets = Annotated[
    list[Path],
    typer.Argument(metavar="SHARDS", help="Folders of `chexmix tokenize -o`; parts inside them are included."),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="SHARDS|INDEX|FILE",
        help="New folder of shards; folder of an index; or file of records.",
        show_default=False,
    ),
]


@command(None, "is_json")
def merge(
    call: Call[None],
    sets: Sets,
    out: Out,
) -> int:
    """Merge token shards into one set, or the records of all shares into one file, or one index.

    The parts of one run (--shard, torchrun) come back in the order of its inputs, as if it had not been split.
    Shards of different inputs are concatenated. All must have been made in the same way, and no id may occur twice.

    Examples:

        chexmix data merge shards -o whole

        chexmix data merge mimic chexpert -o both

        chexmix data merge reports.part-*.jsonl -o reports.xlsx

        chexmix data merge index.part-*.jsonl -o index
    """
    from chexmix_cli.core.data.shards import ShardSet, find_sets, merge_sets

    writer = Writer(call.options.is_json)
    if any(path.is_file() for path in sets):
        num_records = _merge_records(sets, out)
        writer.write(
            {"id": str(out), "status": "ok", "num_records": num_records}, f"{out}: {counted(num_records, 'record')}"
        )
        return ExitCode.DONE
    with call.console.progress("merge") as move:
        merged = merge_sets([ShardSet.open(folder) for folder in find_sets(sets)], out, move)
    record = {"id": str(out), "status": "ok", **_sizes(merged)}
    writer.write(record, f"{out}: {counted(merged.num_records, 'input')}, {counted(len(merged), 'row')}")
    return ExitCode.DONE


def _merge_records(files: list[Path], out: Path) -> int:
    """Write the records of all shares of a list into one file or index, and return how many there are."""
    from chexmix_cli.commands.records.record_file import check_form, write_table
    from chexmix_cli.core.files import atomic_write
    from chexmix_cli.library.jobs.merging import merged_lines
    from chexmix_cli.library.retrieval import INDEX_COMMAND, merge_index

    made, lines = merged_lines(files)
    if made.get("command") == INDEX_COMMAND:
        return merge_index(made, lines, out)
    check_form(out)
    num_records = 0

    def counted() -> Iterator[bytes]:
        nonlocal num_records
        for line in lines:
            num_records += 1
            yield line

    if out.suffix.lower() != ".jsonl":
        write_table(out, (json.loads(line) for line in counted()))
        return num_records
    try:
        with atomic_write(out) as file:
            file.writelines(counted())
    except OSError as error:
        raise MachineError(f"cannot be written ({error.strerror})", where=str(out)) from None
    return num_records


@command(None, "is_json")
def info(
    call: Call[None],
    sets: ShardSets,
) -> int:
    """Describe token shards, and check all of them for damage.

    Examples:

        chexmix data info shards
    """
    from chexmix_cli.core.data.shards import ShardSet, find_sets, verify_set

    writer, num_failed, folders = Writer(call.options.is_json), 0, find_sets(sets)
    for folder in folders:
        try:
            shards = ShardSet.open(folder)
            verify_set(shards)
            record = {"id": str(folder), "status": "ok", **_sizes(shards), **_contents(shards)}
            text = _text(record)
        except DataError as error:
            record = error_record(str(folder), error)
            text = f"{folder}: {error}"
            num_failed += 1
        writer.write(record, text)
    return ExitCode.DONE if not num_failed else ExitCode.PARTIAL if num_failed < len(folders) else ExitCode.FAILED


def _sizes(shards: ShardSet) -> Record:
    return {"num_shards": len(shards.shards), "num_records": shards.num_records, "num_rows": len(shards)}


def _contents(shards: ShardSet) -> Record:
    """Return what a set is of, counted over its rows and its index."""
    import numpy as np

    errors: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for entry in shards.index():
        if entry["status"] == "ok":
            splits[entry.get("split") or "none"] += 1
        else:
            errors[entry["error"]["code"]] += 1
    names = shards.label_names
    labels = shards.label_matrix(names)
    counts = {
        name: {str(value): int(np.sum(labels[:, column] == value)) for value in (1, 0, -1)}
        for column, name in enumerate(names)
    }
    lengths = np.array([len(shards.text(row)) for row in range(len(shards))], np.int64)
    return {
        "num_reports": int(np.sum(lengths > 0)),
        "num_text_tokens": int(lengths.sum()),
        "longest_report": int(lengths.max(initial=0)),
        "splits": dict(sorted(splits.items())),
        "errors": dict(sorted(errors.items())),
        "labels": counts,
        "identity": shards.identity.to_dict(),
    }


def _text(record: dict[str, Any]) -> str:
    lines = [record["id"]]
    for name, value in record.items():
        if name in ("id", "status"):
            continue
        if isinstance(value, dict):
            lines += [f"    {name}.{key}: {found}" for key, found in value.items()]
        else:
            lines.append(f"    {name}: {value}")
    return "\n".join(lines)
