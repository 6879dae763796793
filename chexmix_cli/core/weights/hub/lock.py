"""What was fetched: ``chexmix.lock.json`` beside the files, written by ``fetch`` and read by every later check."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chexmix_cli.core.errors import SettingsError, WeightsError
from chexmix_cli.core.files import write_json
from chexmix_cli.core.settings.load import build

LOCK_FILE = "chexmix.lock.json"
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """Digest and size of a file as it was received."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """Where a fetched directory's files came from.

    Attributes:
        repository, commit: on the hub; a later fetch stays with the commit.
        licence: name of the licence that was accepted.
        files: by name.
    """

    repository: str
    commit: str
    licence: str
    files: dict[str, LockedFile] = field(default_factory=dict)


def read_lock(directory: Path) -> Lock | None:
    """Return the lock of a directory, or None if nothing was fetched into it.

    Raises:
        WeightsError: if the lock is there and damaged.
    """
    path = directory / LOCK_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("schema") != _SCHEMA:
            raise ValueError("unknown schema")
        files = {name: build(LockedFile, file, where=name) for name, file in values.pop("files").items()}
        return build(Lock, {**values, "files": files})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, SettingsError) as error:
        raise WeightsError(f"is damaged ({error})", where=str(path), hint="delete the folder and fetch again") from None


def write_lock(directory: Path, lock: Lock) -> None:
    """Write the lock of a directory atomically."""
    write_json(directory / LOCK_FILE, {"schema": _SCHEMA, **asdict(lock)})
