"""The records of all shares of a list, back in its order: the lines that one process would have written."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.shards.merge import require_all_parts
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.library.jobs.journal import journal_folder, read_entries, read_run, record_digest, require_identity

_OWN = ("part", "num_parts")


def merged_lines(files: Sequence[Path]) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return what decided the records of files, which are all shares of one list, and their lines, in its order.

    Raises:
        DataError: if a file has no journal or is unfinished, or a share is missing, there twice, or of another list.
        SettingsError: if they were made in different ways.
    """
    runs = [_finished_run(path) for path in files]
    whole = _without_part(runs[0]["identity"])
    for path, run in zip(files, runs, strict=True):
        require_identity(_without_part(run["identity"]), whole, str(path))
    parts = [(run["identity"]["part"], run["identity"]["num_parts"]) for run in runs]
    require_all_parts(parts, {run["complete"]["list_hash"] for run in runs}, files[0].name)
    return whole, _in_order(files, runs[0]["complete"]["num_listed"])


def _in_order(files: Sequence[Path], num_listed: int) -> Iterator[bytes]:
    count = 0
    for order, line in heapq.merge(*map(_ordered_lines, files), key=lambda pair: pair[0]):
        if order != count:
            break
        yield line
        count += 1
    if count != num_listed:
        raise DataError(Reason.CORRUPT, f"the record of input {count} is missing or there twice", where=files[0].name)


def _ordered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as lines:
            for entry, line in zip(read_entries(journal_folder(path)), lines, strict=False):
                if entry["record"] != record_digest(line):
                    what = f"the record of input {entry['order']} is another one than the run wrote"
                    raise DataError(Reason.CORRUPT, what, where=path.name)
                yield entry["order"], line
    except OSError as error:  # who writes the lines would take it for an error of the target
        raise DataError(Reason.UNREADABLE, f"cannot be read ({error.strerror})", where=path.name) from None


def _finished_run(path: Path) -> dict[str, Any]:
    run = read_run(journal_folder(path)) if path.is_file() else None
    if run is None:
        raise DataError(
            Reason.NOT_FOUND,
            "no share of a run",
            where=str(path),
            expected=f"a file with {path.name}.journal beside it",
        )
    if run["complete"] is None:
        raise DataError(
            Reason.CORRUPT, "the share is unfinished", where=str(path), hint="give its command again, which goes on"
        )
    return run


def _without_part(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in _OWN}
