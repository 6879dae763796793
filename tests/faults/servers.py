"""The two servers under the same faults: clients that ask until they are answered, and what they have in the end."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dicom_peers import Archive, film, listening_archive, send
from pydicom.dataset import Dataset

from chexmix_cli.core.errors import ExitCode
from tests.faults import actions
from tests.faults.faults import mount_disk
from tests.faults.matrix import Outcome
from tests.faults.process import Run, Strike, start
from tests.serve.conftest import data_url

_SIGKILL, _READER_GONE = -int(signal.SIGKILL), 141
_BY_NETWORK = "films come over the network"
_INPUTS = dict.fromkeys(("a vanished input", "a changed input", "an unreadable file"), _BY_NETWORK)
_KEEPS_NOTHING = dict.fromkeys(
    ("kill -9 in a write", "a full disk", "a disk that fills", "a read-only folder", "the output moved")
    + ("killed and moved",),
    "writes nothing to the disk",
)
#: Why a server has no such cell, by the fault's name.
NOT_APPLICABLE: Mapping[str, Mapping[str, str]] = {
    "serve http": {**_INPUTS, **_KEEPS_NOTHING, "a broken pipe": "its events go to stderr"},
    "serve dicom": _INPUTS,
}
#: Exit codes under a fault that strikes while the second film is worked on; None: it goes on, until it is told to stop.
CODES: Mapping[str, Mapping[str, int | None]] = {
    "serve http": {
        "kill -9": _SIGKILL,
        "SIGTERM": ExitCode.DONE,
        "SIGINT": ExitCode.INTERRUPTED,
        "SIGINT twice": ExitCode.INTERRUPTED,
        "a worker stopped": None,
        "a worker killed": None,
        "no memory (numpy)": None,
        "no memory (torch)": None,
        "a clock set back": None,
        "two processes": None,
    },
    "serve dicom": {
        "kill -9": _SIGKILL,
        "kill -9 in a write": _SIGKILL,
        "SIGTERM": ExitCode.DONE,
        "SIGINT": ExitCode.INTERRUPTED,
        "SIGINT twice": ExitCode.INTERRUPTED,
        "a worker stopped": None,
        "a worker killed": None,
        "a full disk": ExitCode.ENVIRONMENT,
        "a disk that fills": ExitCode.ENVIRONMENT,
        "a read-only folder": ExitCode.ENVIRONMENT,
        "a broken pipe": _READER_GONE,
        "no memory (numpy)": ExitCode.ENVIRONMENT,
        "no memory (torch)": ExitCode.ENVIRONMENT,
        "a clock set back": None,
        "two processes": None,
        "the output moved": ExitCode.ENVIRONMENT,
        "killed and moved": _SIGKILL,
    },
}
_STRUCK: Mapping[str, Callable[[], None]] = {
    "kill -9": actions.Signals((signal.SIGKILL,)),
    "SIGTERM": actions.Signals((signal.SIGTERM,)),
    "SIGINT": actions.Signals((signal.SIGINT,)),
    "SIGINT twice": actions.Signals((signal.SIGINT, signal.SIGINT)),
    "a broken pipe": actions.lose_reader,
    "no memory (numpy)": actions.no_memory,
    "no memory (torch)": actions.no_memory_of_torch,
    "a clock set back": actions.set_clock_back,
    "killed and moved": actions.Signals((signal.SIGKILL,)),
}
_WORKERS = {"a worker stopped": signal.SIGSTOP, "a worker killed": signal.SIGKILL}


@dataclass
class Place:
    """A server, and where it is.

    Attributes:
        name: of the server, as in the table.
        work: the folder it runs in; ``out`` in it may be a disk of its own.
        weights: of the small model.
        stack: what is undone at the end.
    """

    name: str
    work: Path
    weights: Path
    stack: ExitStack
    before: list[Callable[[], None]] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    mend: Callable[[], None] = lambda: None
    more: tuple[str, ...] = ()

    @property
    def out(self) -> Path:
        """Return the folder of what it writes."""
        return self.work / "out"

    def arrange(self, fault: str, point: str) -> None:
        """Let a fault strike while the second film is worked on, or be there from the beginning."""
        if fault in _STRUCK:
            self.strikes.append(Strike(point, 2, _STRUCK[fault]))
        elif fault in _WORKERS:
            self.before.append(actions.StrikeWorker(None, _WORKERS[fault]))
            self.more = ("--set", "input.workers=1")
        elif fault == "kill -9 in a write":
            self.strikes.append(Strike("os:fsync", 12, actions.Signals((signal.SIGKILL,))))
        elif fault in ("a full disk", "a disk that fills"):
            mount_disk(self.out, self.stack)
            self.mend = (self.out / actions.BALLAST).unlink
            fill = actions.FillDisk(self.out)
            fill() if fault == "a full disk" else self.strikes.append(Strike(point, 2, fill))
        elif fault == "a read-only folder":
            self.before.append(actions.drop_rights)
            actions.Forbid(self.out)()
            self.mend = lambda: self.out.chmod(0o700)
        elif fault == "the output moved":
            to = self.work / "elsewhere"
            self.strikes.append(Strike(point, 2, actions.Move(self.out, to)))
            self.mend = lambda: _move_back(to, self.out)
        if fault == "killed and moved":
            self.mend = self._move

    def _move(self) -> None:
        self.work = self.work.rename(self.work.with_name(f"{self.work.name}-moved"))

    def begin(self, words: list[str], *, is_struck: bool = True) -> Run:
        """Start the server."""
        if not is_struck:
            return start(words, self.work)
        return start([*words, *self.more], self.work, before=self.before, strikes=self.strikes)


def _move_back(found: Path, place: Path) -> None:
    assert not place.exists() or not any(path.is_file() for path in place.rglob("*"))
    shutil.rmtree(place, ignore_errors=True)
    found.rename(place)


def run_http(fault: str, place: Place, pictures: list[Path]) -> Outcome:
    """Ask a server for codes under a fault, and another one for what was not answered.

    Raises:
        AssertionError: something is not as it must be.
    """
    words = ["serve", "http", "--port", "0", "--weights", str(place.weights), "--set", "input.workers=0"]
    expected = CODES["serve http"][fault]
    wanted = _answers(place.begin(words, is_struck=False), pictures, {}, stop=True)
    assert len(wanted) == len(pictures)
    place.arrange(fault, "chexmix_cli.serve.http.verbs:Tokenize.__call__")
    run = place.begin(words)
    answers = _answers(run, pictures, {})
    num_first = len(answers)
    if fault in ("SIGTERM", "SIGINT"):
        assert num_first >= 2, "what was taken in is answered"
    if fault == "two processes":
        listening = run.wait_for("listening")
        assert listening is not None
        second = start([*words[:3], str(listening["port"]), *words[4:]], place.work)
        assert second.end() == ExitCode.ENVIRONMENT
        assert "cannot be listened on" in second.said
    if expected is None:
        answers = _answers(run, pictures, answers, stop=True)
        code = ExitCode.DONE
    else:
        code = run.end()
        assert code == expected, (code, run.said)
        answers = _answers(place.begin(words, is_struck=False), pictures, answers, stop=True)
    assert answers == wanted
    assert not list(place.out.iterdir())
    return Outcome(code, num_first, is_given_again=expected is not None)


def _answers(run: Run, pictures: list[Path], known: dict[str, object], *, stop: bool = False) -> dict[str, object]:
    """Return the codes of films that a server gives, besides those that are known, each asked for once."""
    listening, found = run.wait_for("listening"), dict(known)
    assert listening is not None, run.said
    for path in pictures:
        if path.name in known:
            continue
        body = json.dumps({"image": data_url(path), "id": path.name})
        connection = http.client.HTTPConnection("127.0.0.1", listening["port"], timeout=300)
        try:
            connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            break
        finally:
            connection.close()
        if answer.status == 200:
            found[path.name] = content["codes"]
        else:
            assert answer.status in (422, 503), content
            assert content["error"]["code"] != "BUG"
    if stop:
        os.kill(run.process.pid or 0, signal.SIGTERM)
        assert run.end() == 0, run.said
    return found


def run_dicom(fault: str, place: Place) -> Outcome:
    """Send studies to a node under a fault, and all of them again to another one.

    Raises:
        AssertionError: something is not as it must be.
    """
    films, expected = [film(seed) for seed in range(4)], CODES["serve dicom"][fault]
    with listening_archive() as archive:
        place.arrange(fault, "chexmix_cli.serve.dicom.reporting:StudyReporter.__call__")
        words = _node_words(place, archive)
        run = place.begin(words)
        num_lost = 1 if fault == "a worker killed" else 0
        if expected is None:
            _deliver(run, films, archive, len(films) - num_lost)
            if fault == "two processes":
                second = place.begin(words, is_struck=False)
                assert second.end() == ExitCode.ENVIRONMENT
                assert "another process is writing it" in second.said
            last, code, num_first = run, ExitCode.DONE, len(films) - num_lost
        else:
            started = run.wait_for("started")
            if started is not None:
                send(started["port"], films)
            code = run.end()
            assert code == expected, (code, run.said)
            for unsaid in ("Traceback", "bug of chexmix"):
                assert unsaid not in run.said, run.said
            num_first = len(archive.documents)
            place.mend()
            last = place.begin(_node_words(place, archive), is_struck=False)
            _deliver(last, films, archive, len(films))
        os.kill(last.process.pid or 0, signal.SIGTERM)
        assert last.end() == 0, last.said
        left = next(one for one in last.events() if one["event"] == "stopped")
        assert left["quarantine"] == num_lost
        studies = [document.StudyInstanceUID for document in archive.documents.values()]
        assert len(set(studies)) == len(studies) == len(films) - num_lost
        assert not list(place.out.rglob("*.partial"))
    return Outcome(code, num_first, is_given_again=expected is not None)


def _node_words(place: Place, archive: Archive) -> list[str]:
    words = ["serve", "dicom", "--port", "0", "--queue", str(place.out / "queue"), "--weights", str(place.weights)]
    words += ["--send-to", f"ARCHIVE@127.0.0.1:{archive.port}", "--set", "decode.max_new_tokens=8"]
    words += ["--set", "receive.quiet_seconds=0", "--set", "queue.grace_seconds=1", "--set", "receive.least_free_mb=1"]
    return [*words, "--set", "send.first_wait_seconds=0.1", "--set", "input.workers=0"]


def _deliver(run: Run, films: list[Dataset], archive: Archive, count: int) -> None:
    """Send films to a node that works, and wait until so many documents of theirs are in the archive."""
    started = run.wait_for("started")
    assert started is not None, run.said
    assert send(started["port"], films) == [0] * len(films)
    archive.wait_for(lambda: len(archive.documents) >= count, 300)
