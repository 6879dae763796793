"""Fetch the weights of a hub entry: licence first, resumable, every file held against its sha256.

This is the only module that uses the network, and only when :func:`fetch` is called. Transfers go through
huggingface-hub's session (its proxies, tokens, offline switch and ``HF_ENDPOINT``); resuming is done here, because the
package deletes what it had received when a download of its own stops.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chexmix_cli import __version__
from chexmix_cli.core.errors import ChexmixError, MachineError, SettingsError, WeightsError
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.sharded import INDEX_SUFFIX, read_index
from chexmix_cli.core.weights.hub.lock import Lock, LockedFile, read_lock, write_lock
from chexmix_cli.core.weights.hub.registry import EntryFile, ModelEntry

#: Called with (file name, bytes received, bytes in all).
Progress = Callable[[str, int, int], None]

_ATTEMPTS = 4
_WAIT_S = 2.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Remote:
    """One file on the hub at one commit."""

    name: str
    num_bytes: int | None
    sha256: str | None


def fetch(entry: ModelEntry, *, accept_licence: bool, progress: Progress | None = None) -> Lock:
    """Bring a hub entry's files into its directory, going on where an earlier call stopped; return the lock.

    Where the repository has a network in several files, its index and all of them are fetched.

    The first fetch records each file's sha256 and the hub's commit; later ones stay with that commit and check.

    Raises:
        SettingsError: if the licence has to be accepted and was not; nothing was asked of the network then.
        WeightsError: if the entry is no hub entry, a required file is not there, a transfer stopped (call again to go
            on), or a file has another sha256 than published or recorded.
        MachineError: if the disk has not enough room.
    """
    directory = entry.directory
    if entry.source != "hub" or entry.repository is None:
        raise WeightsError(f"{entry.name} is part of the installation", expected="a model that lives on the hub")
    lock = read_lock(directory)
    if entry.licence.must_accept and not accept_licence and (lock is None or lock.licence != entry.licence.name):
        raise SettingsError(
            f"the {entry.licence.name} of {entry.name} has not been accepted",
            where="weights fetch",
            expected="--accept-licence, once you have read it",
            hint=f"its terms: {entry.licence.url}",
        )
    if lock is None:
        lock = Lock(repository=entry.repository, commit=entry.revision, licence=entry.licence.name)
    commit, remotes = _list_remote(entry, lock.commit)
    lock = dataclasses.replace(lock, commit=commit, licence=entry.licence.name)
    wanted = [found for file in entry.files if (found := _on_hub(file, remotes)) is not None]
    lock = _bring(entry, lock, wanted, remotes, progress)
    indexes = [directory / file.name for file in wanted if file.name.endswith(INDEX_SUFFIX)]
    parts = [name for index in indexes for name in sorted(set(read_index(index).values()))]
    return _bring(entry, lock, [EntryFile(name=name) for name in parts], remotes, progress)


def _on_hub(file: EntryFile, remotes: Mapping[str, _Remote]) -> EntryFile | None:
    """Return a file as the repository has it: itself, else the index of several, else None."""
    for name in (file.name, f"{file.name}{INDEX_SUFFIX}"):
        if name in remotes:
            return file if name == file.name else EntryFile(name=name, required=file.required)
    return None


def _bring(
    entry: ModelEntry,
    lock: Lock,
    wanted: Sequence[EntryFile],
    remotes: Mapping[str, _Remote],
    progress: Progress | None,
) -> Lock:
    """Fetch files or check those that are here; return the lock with all of them, written after each."""
    directory = entry.directory
    absent = [file.name for file in wanted if file.name not in remotes]
    if absent:
        raise WeightsError(f"has no {', '.join(absent)}, which its index names", where=f"{entry.repository} on the hub")
    directory.mkdir(parents=True, exist_ok=True)
    _check_room(directory, [remotes[file.name] for file in wanted])
    for file in wanted:
        path, known, remote = directory / file.name, lock.files.get(file.name), remotes[file.name]
        if path.exists():
            locked = _check(path, file, remote, known, hint="it was changed here: delete it, then fetch again")
        else:
            partial = _download(entry, lock.commit, remote, directory, progress)
            try:
                locked = _check(partial, file, remote, known, hint="what was received is deleted; fetch again")
            except WeightsError:
                partial.unlink()
                raise
            partial.replace(path)
        lock = dataclasses.replace(lock, files={**lock.files, file.name: locked})
        write_lock(directory, lock)
    return lock


def _list_remote(entry: ModelEntry, revision: str) -> tuple[str, dict[str, _Remote]]:
    """Return the commit a revision stands for and the repository's files; WeightsError if a required one is absent."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=_endpoint(), library_name="chexmix", library_version=__version__)
    try:
        info = api.model_info(str(entry.repository), revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    except Exception as error:  # the package's HTTP library, and so its errors, changes between its versions
        raise _transfer_error(entry, error) from None
    remotes = {
        sibling.rfilename: _Remote(sibling.rfilename, sibling.size, sibling.lfs.sha256 if sibling.lfs else None)
        for sibling in info.siblings or ()
    }
    missing = [file.name for file in entry.files if file.required and _on_hub(file, remotes) is None]
    if missing or info.sha is None:
        raise WeightsError(f"has no {', '.join(missing) or 'commit'}", where=f"{entry.repository} on the hub")
    return info.sha, remotes


def _download(entry: ModelEntry, commit: str, remote: _Remote, directory: Path, progress: Progress | None) -> Path:
    """Receive one file under a temporary name that carries the commit; return it."""
    partial = directory / f".{remote.name}.{commit[:12]}.partial"
    for stale in directory.glob(f".{remote.name}.*.partial"):
        if stale != partial:
            stale.unlink()
    attempts_left = _ATTEMPTS
    while True:
        try:
            _receive(entry, commit, remote, partial, progress)
            return partial
        except Exception as error:  # as in _list_remote
            attempts_left -= 1
            if attempts_left == 0 or _is_final(error):
                raise _transfer_error(entry, error) from None
            time.sleep(_WAIT_S)


def _receive(entry: ModelEntry, commit: str, remote: _Remote, partial: Path, progress: Progress | None) -> None:
    """Append what is missing of ``partial``; any error leaves what was received."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(str(entry.repository), remote.name, revision=commit, endpoint=_endpoint())
    headers = build_hf_headers(library_name="chexmix", library_version=__version__)
    headers["Accept-Encoding"] = "identity"  # positions are those of the file, not of a compressed stream
    with partial.open("ab") as file:
        done = file.tell()
        if remote.num_bytes is None or done > remote.num_bytes:
            done = file.truncate(0)
        if done and done == remote.num_bytes:
            return
        if done:
            headers["Range"] = f"bytes={done}-"
        with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as response:
            hf_raise_for_status(response)
            if done and response.status_code != 206:  # the server starts over
                done = file.truncate(0)
            for chunk in response.iter_bytes():
                if remote.num_bytes is not None and done + len(chunk) > remote.num_bytes:
                    file.truncate(0)
                    raise ConnectionError(f"received more than the {remote.num_bytes} bytes of {remote.name}")
                done += file.write(chunk)
                if progress is not None:
                    progress(remote.name, done, remote.num_bytes or done)
        file.flush()
        os.fsync(file.fileno())
    if remote.num_bytes is not None and done != remote.num_bytes:
        raise ConnectionError(f"received {done} of {remote.num_bytes} bytes of {remote.name}")


def _check(path: Path, file: EntryFile, remote: _Remote, locked: LockedFile | None, *, hint: str) -> LockedFile:
    """Return the file's digest and size; WeightsError if any known digest is another."""
    digest = file_sha256(path, fresh=True)
    known = (("weights.toml", file.sha256), ("the hub", remote.sha256), ("the first fetch", locked and locked.sha256))
    for who, expected in known:
        if expected and digest != expected:
            raise WeightsError(
                f"has sha256 {digest}",
                where=str(path.with_name(file.name)),
                expected=f"{expected}, recorded by {who}",
                hint=hint,
            )
    return LockedFile(sha256=digest, num_bytes=path.stat().st_size)


def _check_room(directory: Path, remotes: list[_Remote]) -> None:
    here = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    missing = sum(remote.num_bytes or 0 for remote in remotes) - here
    free = shutil.disk_usage(directory).free
    if missing > free:
        raise MachineError(
            f"{free / 2**30:.1f} GiB free",
            where=str(directory),
            expected=f"{missing / 2**30:.1f} GiB",
            hint="set CHEXMIX_HOME to a larger disk",
        )


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_final(error: Exception) -> bool:
    """Return whether trying again cannot help: the server's refusal, offline mode, a disk that is full."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = _status(error)
    is_refused = status is not None and 400 <= status < 500 and status not in (408, 429)
    is_disk_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)
    return is_refused or is_disk_full or isinstance(error, OfflineModeIsEnabled)


def _transfer_error(entry: ModelEntry, error: Exception) -> ChexmixError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    where, status = f"{entry.repository} on the hub", _status(error)
    first_line = (str(error).splitlines() or [""])[0] or type(error).__name__
    if isinstance(error, OfflineModeIsEnabled):
        return WeightsError("HF_HUB_OFFLINE is set", where=where, expected="a connection")
    if status in (401, 403):
        hint = f"ask for access at {entry.licence.url}, then log in with `hf auth login`"
        return WeightsError(f"access was refused ({status})", where=where, hint=hint)
    if status == 404:
        return WeightsError("there is no such repository, revision or file (404)", where=where)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError("the disk is full", where=str(entry.directory), hint="set CHEXMIX_HOME to a larger disk")
    hint = "the same command goes on where it stopped"
    return WeightsError(f"the transfer stopped ({first_line})", where=where, hint=hint)
