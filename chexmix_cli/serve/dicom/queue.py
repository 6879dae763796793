"""Studies on disk between their first image and their delivered result; a study is in one folder at any time.

::

    incoming/               files being written; nobody has been told that they are here
    receiving/ID/films/     may still grow
    working/ID/             being reported; attempts.json counts how often that was begun
    sending/ID/             result.json and documents/ are there, and go to the destination
    done/ID.json            which images were done, as salted hashes
    quarantine/ID/          not reported or not delivered; reason.json says why

A change of state is one rename, flushed to disk before anyone hears of it. Whatever moment the process is killed at,
the next one finds each study in the last state that was told. What comes for a study that is no longer in ``receiving``
is a part of its own, ``ID.2``.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.files import atomic_write, flush_folder, write_json

#: Subfolders and files of a study's folder.
FILMS, DOCUMENTS, RESULT = "films", "documents", "result.json"
_ATTEMPTS, _REASON = "attempts.json", "reason.json"
STATES = ("receiving", "working", "sending", "quarantine")
_FOLDERS = (*STATES, "incoming", "done")
_SECONDS_A_DAY = 86_400
#: Names the format of the folder and the salt that its names were made with.
_ABOUT, _FORMAT = "queue.json", 1


class StudyQueue:
    """The queue of one folder. One process at a time has it open: hold :func:`chexmix_cli.core.files.held`.

    Args:
        folder: made if missing, for its owner only.
        salt_mark: a hash that is the same as long as the salt of ids is.
        clock: seconds since 1970.

    Raises:
        SettingsError: if the names in the folder were made with another salt, or by another version.
        OSError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, *, salt_mark: str, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        self._lock, self._numbers = threading.Lock(), count()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._check_about(salt_mark)
        for name in _FOLDERS:
            (folder / name).mkdir(exist_ok=True)
        # Nobody was told that these arrived: their senders send them again.
        shutil.rmtree(self._place("incoming"))
        self._place("incoming").mkdir()
        flush_folder(folder)
        for study in self._place("receiving").iterdir():
            if not _instances(study):
                shutil.rmtree(study)
        #: Images in the queue or done.
        self._known = set(self._found_instances())
        self._arrived_s = {path.name: _newest_s(path) for path in self._place("receiving").iterdir()}
        self._ended: set[str] = set()
        #: Of studies that came in parts the last part's number: those before are used.
        self._last_part: dict[str, int] = {}

    def receive(self, data: bytes, *, study: str, instance: str) -> str | None:
        """Take an image; it is on disk when this returns.

        Args:
            data: a whole DICOM file.
            study, instance: ids; names of a folder and a file.

        Returns:
            The name of the study, or of its part, or None if the image is known.

        Raises:
            OSError: if it cannot be written; the queue is as it was.
        """
        if instance in self._known:
            return None
        draft = self._place("incoming") / f"{next(self._numbers)}.dcm"
        with atomic_write(draft) as file:
            file.write(data)
        with self._lock:
            if instance in self._known:
                draft.unlink()
                return None
            name = self._open_part(study)
            films = self._place("receiving", name, FILMS)
            films.mkdir(parents=True, exist_ok=True)
            draft.replace(films / f"{instance}.dcm")
            for folder in (films, films.parent, films.parent.parent):
                flush_folder(folder)
            self._known.add(instance)
            self._arrived_s[name] = self._clock()
        return name

    def end(self, names: Iterable[str]) -> None:
        """Say that nothing more will come for these studies."""
        with self._lock:
            self._ended.update(set(names) & set(self._arrived_s))

    def claim(self, quiet_s: float) -> Path | None:
        """Return the folder of the next study to report on, now in ``working``; None if none is whole.

        First those that an earlier process did not finish, then the one that has waited longest.

        Args:
            quiet_s: seconds after its last image from which on a study is whole.
        """
        with self._lock:
            begun = sorted(self._place("working").iterdir())
            if begun:
                return begun[0]
            now = self._clock()
            # A clock that was set back must not keep a study waiting.
            self._arrived_s = {name: min(now, then) for name, then in self._arrived_s.items()}
            whole = [name for name, then in self._arrived_s.items() if name in self._ended or now - then >= quiet_s]
            if not whole:
                return None
            name = min(whole, key=lambda name: (self._arrived_s[name], name))
            del self._arrived_s[name]
            self._ended.discard(name)
            return self._move(self._place("receiving", name), "working")

    def begin_attempt(self, study: Path) -> int:
        """Return how often work on a study was begun, this time included; noted on disk before the work."""
        noted = study / _ATTEMPTS
        number = 1 + (json.loads(noted.read_text())["begun"] if noted.exists() else 0)
        write_json(noted, {"begun": number})
        return number

    def reported(self, study: Path) -> Path:
        """Move a study whose result and documents are in its folder to ``sending``; return where it is."""
        return self._move(study, "sending")

    def to_send(self) -> list[Path]:
        """Return the studies whose documents wait to be sent, by name."""
        return sorted(self._place("sending").iterdir())

    def delivered(self, study: Path, **about: Any) -> None:
        """Forget films and documents of a study, and remember that it was done.

        Args:
            study: its folder.
            about: kept with the ids of its images; no patient data.
        """
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock()))
        write_json(
            self._place("done", f"{study.name}.json"), {"done": made, "instances": sorted(_instances(study)), **about}
        )
        shutil.rmtree(study)

    def refuse(self, study: Path, code: str, message: str, **about: Any) -> Path:
        """Move a study to ``quarantine`` with the reason; return where it is."""
        write_json(study / _REASON, {"code": code, "message": message, **about})
        return self._move(study, "quarantine")

    def prune(self, keep_days: float) -> int:
        """Forget what was done more than so many days ago; return how many studies that were."""
        oldest_s, num_forgotten = self._clock() - keep_days * _SECONDS_A_DAY, 0
        for path in list(self._place("done").glob("*.json")):
            if path.stat().st_mtime < oldest_s:
                instances = json.loads(path.read_text())["instances"]
                path.unlink()
                study, _, number = path.stem.rpartition(".")
                with self._lock:
                    self._known.difference_update(instances)
                    if str(self._last_part.get(study)) == number:
                        del self._last_part[study]
                num_forgotten += 1
        return num_forgotten

    def counts(self) -> dict[str, int]:
        """Return how many studies are in each state."""
        return {
            **{state: self.count(state) for state in STATES},
            "done": sum(1 for _ in self._place("done").glob("*.json")),
        }

    def count(self, state: str) -> int:
        """Return how many studies are in one of ``STATES``."""
        return sum(1 for _ in self._place(state).iterdir())

    def age_s(self, study: Path) -> float:
        """Return the seconds since the last image of a study came, by its folder."""
        return max(0.0, self._clock() - _newest_s(study))

    def free_bytes(self) -> int:
        """Return the free space where the queue is."""
        return shutil.disk_usage(self.folder).free

    def _place(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def _move(self, study: Path, state: str) -> Path:
        target = self._place(state, study.name)
        os.rename(study, target)
        for folder in (target.parent, study.parent):
            flush_folder(folder)
        return target

    def _open_part(self, study: str) -> str:
        """Return the part of a study that may still grow, or the name of a new one."""
        for number in count(self._last_part.get(study, 1)):
            name = study if number == 1 else f"{study}.{number}"
            if name in self._arrived_s or not self._is_used(name):
                if number > 1:
                    self._last_part[study] = number
                return name
        raise AssertionError

    def _is_used(self, name: str) -> bool:
        return (
            any(self._place(state, name).exists() for state in STATES) or self._place("done", f"{name}.json").exists()
        )

    def _found_instances(self) -> Iterable[str]:
        for state in STATES:
            for study in self._place(state).iterdir():
                yield from _instances(study)
        for path in self._place("done").glob("*.json"):
            yield from json.loads(path.read_text())["instances"]
            with suppress(FileNotFoundError):
                # Killed between the note and the removal.
                shutil.rmtree(self._place("sending", path.stem))

    def _check_about(self, salt_mark: str) -> None:
        path = self._place(_ABOUT)
        about = {"format": _FORMAT, "salt": salt_mark}
        if not path.exists():
            write_json(path, about)
            return
        found = json.loads(path.read_text())
        if found.get("format") != _FORMAT:
            raise SettingsError("was made by another version of chexmix", where="QUEUE", expected=f"format {_FORMAT}")
        if found != about:
            raise SettingsError(
                "its studies are named with another salt",
                where="QUEUE",
                expected="the CHEXMIX_ID_SALT, or the CHEXMIX_HOME, that it was made with",
                hint="images that come again would not be known; give a new folder if the salt is lost",
            )


def _instances(study: Path) -> list[str]:
    return [path.stem for path in (study / FILMS).glob("*.dcm")]


def _newest_s(study: Path) -> float:
    return max((path.stat().st_mtime for path in (study / FILMS).glob("*.dcm")), default=0.0)
