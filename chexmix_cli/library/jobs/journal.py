"""The account of a run that writes records: what decides them, and which inputs they are of.

Beside ``FILE`` lies the folder ``FILE.journal``: ``run.json`` says what decides the records and, once a share of a
list is done, how long the list is; ``inputs.jsonl`` has a line for each record: its input's id, index in the list and
digest, and how it ended. Records themselves are in ``FILE``, or in ``records.jsonl`` of the folder where ``FILE`` is a
table.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.shards.merge import new_list_hash, update_list_hash
from chexmix_cli.core.errors import DataError, MachineError, Reason, SettingsError
from chexmix_cli.core.files import held, naming, write_json
from chexmix_cli.library.jobs.job import Job, Record

RUN_FILE, INPUTS_FILE, RECORDS_FILE = "run.json", "inputs.jsonl", "records.jsonl"
#: Raised by one whenever journals of an earlier version can no longer be gone on with.
SCHEMA = "chexmix-journal/2"
Entry = dict[str, Any]


def journal_folder(out: Path) -> Path:
    """Return the folder of the journal of a file of records."""
    return out.with_name(f"{out.name}.journal")


def records_path(out: Path) -> Path:
    """Return where the records of a run are while it goes on, as JSON Lines."""
    return out if out.suffix.lower() == ".jsonl" else journal_folder(out) / RECORDS_FILE


def input_digest(job: Job[Any]) -> str:
    """Return 16 digits that change with a job's input: sizes and times of its files, and the line it came in as.

    Files are not read: of a million, that would take as long as the work. Nothing of it can be turned back.
    """
    facts: list[Any] = []
    for source in job.sources:
        try:
            state = os.stat(source.path)
            facts.append([state.st_size, state.st_mtime_ns, source.member])
        except OSError:  # reading it will say what is wrong
            facts.append(None)
    line = {name: value for name, value in (job.line or {}).items() if name != "file"}
    content = json.dumps([facts, line], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


class Journal:
    """Takes the records of one run, in order, and goes on with those of one that was stopped. A context.

    Records are kept in whole batches: what a batch's first films are computed with are its others.

    Args:
        out: file that the records are for.
        identity: what decides them, name to plain value; ``part`` and ``num_parts`` among it.
        batch_size: inputs of a batch.
        is_anew: what an earlier run left is not gone on with.

    Raises:
        SettingsError: if a run of another identity is unfinished, or a share of another one finished.
        DataError: if the file is not as that run left it.
        MachineError: if another process writes to it, or the system refuses it.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, batch_size: int, is_anew: bool = False) -> None:
        self.out, self.folder, self.records = out, journal_folder(out), records_path(out)
        self._identity, self._batch_size = dict(identity), batch_size
        self._hold = ExitStack()
        try:
            self._hold.enter_context(held(self.folder))
            self._begin(is_anew)
        except OSError as error:
            self._hold.close()
            raise MachineError(f"cannot be written ({error.strerror})", where=str(out)) from None
        except BaseException:
            self._hold.close()
            raise
        self._passed = 0
        self._finished = read_entries(self.folder, self.num_finished)
        self._list_hash, self.num_listed = new_list_hash(), 0

    def listed(self, job: Job[Any]) -> None:
        """Take note of the next input of the whole list, those of other shares too."""
        update_list_hash(self._list_hash, job.id)
        self.num_listed += 1

    def skip(self, job: Job[Any]) -> Entry | None:
        """Return the entry of the share's next input if its record is there, else None.

        Raises:
            SettingsError: if another input was there.
        """
        entry = next(self._finished, None)
        if entry is None:
            return None
        found = {"id": job.id, "order": job.order, "input": input_digest(job)}
        for name, what in (("id", "is"), ("order", "stands at"), ("input", "has changed:")):
            if entry[name] != found[name]:
                raise self._other_inputs(f"input {job.order} {what} {found[name]!r}", f"{entry[name]!r}")
        self._passed += 1
        return entry

    def add(self, job: Job[Any], record: Record) -> None:
        """Take the record of the next input."""
        if self._is_complete or self._passed < self.num_finished:
            raise self._other_inputs(f"there is an input {job.order}", f"{self.num_finished} inputs of this share")
        line = _line(record)
        entry = {
            "id": job.id,
            "order": job.order,
            "input": input_digest(job),
            "record": record_digest(line),
            "status": record["status"],
        }
        if "error" in record:
            entry["error"] = record["error"]
        # The record goes first: what has an entry has a record.
        for file, text in ((self._records_file, line), (self._inputs_file, _line(entry))):
            file.write(text)
            file.flush()
        self.num_finished += 1
        self._passed += 1

    def read(self) -> Iterator[Record]:
        """Yield the records so far."""
        with self.records.open("rb") as lines:
            for line in lines:
                yield json.loads(line)

    def finish(self) -> None:
        """End the run: of a whole list nothing but the records stays, of a share what joining it needs.

        Raises:
            SettingsError: if records are there of inputs that did not come.
        """
        totals = {"num_listed": self.num_listed, "list_hash": self._list_hash.hexdigest()}
        if self._passed < self.num_finished or self._complete not in (None, totals):
            raise self._other_inputs(f"there are {self.num_listed}", "those of the run before")
        self._close_files()
        if self._identity["num_parts"] == 1:
            self._hold.close()
            shutil.rmtree(self.folder)
        elif self._complete is None:
            self._write_run(totals)

    def close(self) -> None:
        """Let another process go on."""
        self._close_files()
        self._hold.close()

    def _close_files(self) -> None:
        self._records_file.close()
        self._inputs_file.close()

    @property
    def _is_complete(self) -> bool:
        return self._complete is not None

    def _begin(self, is_anew: bool) -> None:
        self._complete: dict[str, Any] | None = None
        self.num_finished = 0
        state = None if is_anew else read_run(self.folder)
        if state is not None:
            require_identity(state["identity"], self._identity, str(self.out))
            self._complete = state["complete"]
            self.num_finished = self._recover()
        else:
            self._write_run(None)
        mode = "ab" if state is not None else "wb"
        self.records.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.records):
            self._records_file = self.records.open(mode)
        self._inputs_file = (self.folder / INPUTS_FILE).open(mode)

    def _recover(self) -> int:
        """Cut records and entries behind the last whole batch, and return how many there are."""
        count, num_kept, ends, kept = 0, 0, [0, 0], [0, 0]
        for path in (self.records, self.folder / INPUTS_FILE):
            path.touch()
        with self.records.open("rb") as records, (self.folder / INPUTS_FILE).open("rb") as inputs:
            for record, entry in zip(records, inputs, strict=False):
                if not (record.endswith(b"\n") and entry.endswith(b"\n")):
                    break
                values = _entry(entry)
                if values is None:  # of a machine that stopped
                    break
                if values["record"] != record_digest(record):
                    raise DataError(
                        Reason.CORRUPT, f"record {count} is another one than the run wrote", where=str(self.out),
                        hint=f"to begin anew, remove {self.folder.name}",
                    )  # fmt: skip
                count += 1
                ends = [ends[0] + len(record), ends[1] + len(entry)]
                # Shares get whole batches, so they lie behind each other here as in the list.
                if count % self._batch_size == 0 or self._is_complete:
                    num_kept, kept = count, list(ends)
        os.truncate(self.records, kept[0])
        os.truncate(self.folder / INPUTS_FILE, kept[1])
        return num_kept

    def _write_run(self, totals: dict[str, Any] | None) -> None:
        self._complete = totals
        write_json(self.folder / RUN_FILE, {"schema": SCHEMA, "identity": self._identity, "complete": totals})

    def _other_inputs(self, what: str, expected: str) -> SettingsError:
        return SettingsError(
            f"the inputs are not those it was begun with: {what}",
            where=str(self.out),
            expected=expected,
            hint=f"give the same inputs in the same order; to begin anew, remove {self.folder.name}",
        )


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return ``identity`` and ``complete`` (None, or ``num_listed`` and ``list_hash``) of a journal; None without one.

    Raises:
        DataError: if the file is damaged, or of another version.
    """
    try:
        values = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        found: dict[str, Any] = {name: values[name] for name in ("schema", "identity", "complete")}
        is_ours = found["schema"] == SCHEMA
        if is_ours and not (_is_identity(found["identity"]) and _is_end(found["complete"])):
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(Reason.CORRUPT, "is no journal", where=str(folder / RUN_FILE)) from None
    if not is_ours:
        raise DataError(Reason.UNKNOWN_FORMAT, f"schema {found['schema']!r}", where=str(folder), expected=SCHEMA)
    return found


def record_digest(line: bytes) -> str:
    """Return what an entry says of the line of its record."""
    return hashlib.blake2b(line, digest_size=8).hexdigest()


def _is_identity(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    part, num_parts = value.get("part"), value.get("num_parts")
    return type(part) is int and type(num_parts) is int and 0 <= part < num_parts


def _is_end(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and type(value.get("num_listed")) is int and isinstance(value.get("list_hash"), str)


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False).encode("ascii") + b"\n"


def _entry(line: bytes) -> Entry | None:
    """Return the entry of a line; None if it is damaged."""
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_whole = (
        isinstance(values, dict)
        and type(values.get("order")) is int
        and all(isinstance(values.get(name), str) for name in ("id", "input", "record", "status"))
    )
    return values if is_whole else None


def read_entries(folder: Path, count: int | None = None) -> Iterator[Entry]:
    """Yield the entries of a journal, at most ``count`` of them.

    Raises:
        DataError: if one is damaged, or the file is missing.
    """
    path = folder / INPUTS_FILE
    if not path.is_file():
        raise DataError(Reason.NOT_FOUND, f"{INPUTS_FILE} is missing", where=str(folder))
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if number == count:
                return
            entry = _entry(line)
            if entry is None:
                raise DataError(Reason.CORRUPT, f"entry {number} is damaged", where=str(path))
            yield entry


def require_identity(begun: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Raise SettingsError that names the first value that differs, and both, unless all are the same."""
    for name in dict.fromkeys((*begun, *wanted)):
        if name in wanted and begun.get(name) != _plain(wanted[name]):
            raise SettingsError(
                f"was begun with {name} {begun.get(name)!r}",
                where=where,
                expected=f"{wanted[name]!r}, which is in use",
                hint=f"the same command goes on; to begin anew, remove {Path(where).name}.journal",
            )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names, plain values."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat_settings(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else (
                str(value) if isinstance(value, Path) else value
            )  # fmt: skip
    return found
