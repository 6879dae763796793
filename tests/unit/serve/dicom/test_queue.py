"""The queue on disk: what was told stays true, whatever moment the process dies at."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.serve.dicom import queue as queue_module
from chexmix_cli.serve.dicom.queue import DOCUMENTS, RESULT, StudyQueue


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> StudyQueue:
    return StudyQueue(tmp_path / "queue", salt_mark="a", clock=clock)


def finish(study: Path, queue: StudyQueue) -> None:
    """Do with a study in ``working`` what a report does, up to the end."""
    (study / DOCUMENTS).mkdir(exist_ok=True)
    (study / DOCUMENTS / "001.dcm").write_bytes(b"report")
    (study / RESULT).write_text("{}")
    queue.delivered(queue.reported(study), documents=1)


def test_a_study_is_whole_when_nothing_of_it_came_for_a_while(queue, clock):
    assert queue.receive(b"one", study="s", instance="a") == "s"
    clock.now_s += 9
    assert queue.receive(b"two", study="s", instance="b") == "s"
    clock.now_s += 9
    assert queue.claim(10) is None
    clock.now_s += 1
    study = queue.claim(10)
    assert study == queue.folder / "working" / "s"
    assert {path.name: path.read_bytes() for path in (study / "films").iterdir()} == {"a.dcm": b"one", "b.dcm": b"two"}
    assert queue.counts() == {"receiving": 0, "working": 1, "sending": 0, "quarantine": 0, "done": 0}


def test_a_clock_that_is_set_back_keeps_no_study_waiting(queue, clock):
    queue.receive(b"one", study="s", instance="a")
    clock.now_s -= 86_400
    assert queue.claim(10) is None
    clock.now_s += 10
    assert queue.claim(10) is not None
    # Nor one that an earlier process took in.
    queue.receive(b"two", study="t", instance="b")
    (film,) = (queue.folder / "receiving" / "t" / "films").iterdir()
    os.utime(film, (clock.now_s + 86_400, clock.now_s + 86_400))
    again = StudyQueue(queue.folder, salt_mark="a", clock=clock)
    finish(again.claim(10), again)
    clock.now_s += 10
    assert again.claim(10) is None
    clock.now_s += 10
    assert again.claim(10).name == "t"


def test_an_image_is_flushed_to_disk_with_its_name_before_it_is_said_to_be_there(queue, monkeypatch):
    flushed: list[int] = []
    flush = os.fsync

    def noted(handle: int) -> None:
        flush(handle)
        flushed.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    queue.receive(b"one", study="s", instance="a")
    image = queue.folder / "receiving" / "s" / "films" / "a.dcm"
    of_name = [path.stat().st_ino for path in (image.parent, image.parent.parent, image.parent.parent.parent)]
    assert flushed[0] == image.stat().st_ino
    assert flushed[-3:] == of_name


def test_the_one_that_waited_longest_is_first_and_an_ended_one_waits_for_nothing(queue, clock):
    for study in ("late", "early"):
        queue.receive(b"", study=study, instance=f"{study} 1")
        clock.now_s += 1
    queue.receive(b"", study="late", instance="late 2")
    queue.end(["late", "unknown"])
    assert queue.claim(60).name == "late"
    queue.delivered(queue.reported(queue.folder / "working" / "late"), documents=0)
    assert queue.claim(60) is None
    clock.now_s += 60
    assert queue.claim(60).name == "early"


@pytest.mark.parametrize("state", ["receiving", "working", "sending", "quarantine", "done"])
def test_an_image_that_is_known_is_not_taken_again_in_any_state_nor_after_a_restart(queue, clock, state):
    queue.receive(b"first", study="s", instance="a")
    if state != "receiving":
        study = queue.claim(0)
        if state == "done":
            finish(study, queue)
        elif state == "sending":
            queue.reported(study)
        elif state == "quarantine":
            queue.refuse(study, "CODE", "why")
    for opened in (queue, StudyQueue(queue.folder, salt_mark="a", clock=clock)):
        assert opened.receive(b"again", study="s", instance="a") is None
        assert opened.counts()[state] == 1
        assert sum(opened.counts().values()) == 1


def test_what_comes_late_is_a_part_of_its_own(queue):
    queue.receive(b"", study="s", instance="a")
    finish(queue.claim(0), queue)
    assert queue.receive(b"", study="s", instance="b") == "s.2"
    assert queue.receive(b"", study="s", instance="c") == "s.2"
    assert queue.claim(0).name == "s.2"
    assert queue.receive(b"", study="s", instance="d") == "s.3"


def test_a_part_is_found_without_asking_for_all_before_it(queue, monkeypatch):
    asked, is_used = [], StudyQueue._is_used
    monkeypatch.setattr(StudyQueue, "_is_used", lambda self, name: asked.append(name) or is_used(self, name))
    names = []
    for number in range(30):
        names.append(queue.receive(b"x", study="a", instance=str(number)))
        queue.end(names[-1:])
        queue.refuse(queue.claim(0), "X", "")
    assert names == ["a", *(f"a.{number}" for number in range(2, 31))]
    assert len(asked) <= 2 * len(names)


def test_a_study_whose_parts_are_forgotten_begins_anew(queue, clock):
    for instance in "abc":
        queue.receive(b"", study="s", instance=instance)
        finish(queue.claim(0), queue)
    for done in (queue.folder / "done").glob("*.json"):
        os.utime(done, (clock.now_s, clock.now_s))
    clock.now_s += 3 * 86_400
    assert queue.prune(2) == 3
    assert queue.receive(b"", study="s", instance="d") == "s"


def test_a_refused_study_keeps_its_films_and_says_why(queue):
    queue.receive(b"film", study="s", instance="a")
    study = queue.refuse(queue.claim(0), "NOT_CHEST", "the header says HAND")
    assert json.loads((study / "reason.json").read_text()) == {"code": "NOT_CHEST", "message": "the header says HAND"}
    assert (study / "films" / "a.dcm").read_bytes() == b"film"


def test_a_refused_study_that_is_moved_back_is_worked_on_again(queue, clock):
    queue.receive(b"film", study="s", instance="a")
    refused = queue.refuse(queue.claim(0), "CODE", "why")
    refused.rename(queue.folder / "working" / "s")
    assert StudyQueue(queue.folder, salt_mark="a", clock=clock).claim(60).name == "s"


def test_attempts_are_counted_across_processes(queue, clock):
    queue.receive(b"", study="s", instance="a")
    assert queue.begin_attempt(queue.claim(0)) == 1
    again = StudyQueue(queue.folder, salt_mark="a", clock=clock)
    assert again.begin_attempt(again.claim(60)) == 2


def test_what_was_done_long_ago_is_forgotten(queue, clock):
    queue.receive(b"", study="old", instance="a")
    finish(queue.claim(0), queue)
    done = queue.folder / "done" / "old.json"
    os.utime(done, (clock.now_s, clock.now_s))
    clock.now_s += 3 * 86_400
    assert queue.prune(4) == 0
    assert queue.prune(2) == 1
    assert not done.exists()
    assert queue.receive(b"", study="old", instance="a") == "old"


def test_killed_while_it_removes_what_is_done_it_does_not_send_the_rest(queue, clock, monkeypatch):
    queue.receive(b"film", study="s", instance="a")
    study = queue.claim(0)
    (study / DOCUMENTS).mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda folder: (folder / DOCUMENTS).rmdir())
    queue.delivered(queue.reported(study), documents=1)
    monkeypatch.undo()
    assert [path.name for path in queue.to_send()] == ["s"]
    again = StudyQueue(queue.folder, salt_mark="a", clock=clock)
    assert again.to_send() == []
    assert again.receive(b"film", study="s", instance="a") is None


def test_the_folder_is_for_its_owner_only(queue):
    assert queue.folder.stat().st_mode & 0o777 == 0o700


def test_another_salt_or_format_is_refused(queue):
    with pytest.raises(SettingsError, match="named with another salt; expected the CHEXMIX_ID_SALT"):
        StudyQueue(queue.folder, salt_mark="b")
    (queue.folder / "queue.json").write_text('{"format": 2, "salt": "a"}')
    with pytest.raises(SettingsError, match="made by another version of chexmix; expected format 1"):
        StudyQueue(queue.folder, salt_mark="a")


class Killed(BaseException):
    """Ends the process at a chosen step; nothing may handle it."""


class Steps:
    """Counts what the queue does to the disk, and dies before a chosen step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_done, self.last = 0, -1
        for owner, name in (
            (os, "rename"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (queue_module, "flush_folder"),
            (queue_module, "write_json"),
            (shutil, "rmtree"),
        ):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            if self.num_done == self.last:
                raise Killed
            self.num_done += 1
            return function(*arguments, **named)

        return run


def work(folder: Path, clock: Clock, delivered: list[str], told: set[str]) -> None:
    """Receive two images of a study, report it, send it; each time from what is on disk."""
    queue = StudyQueue(folder, salt_mark="a", clock=clock)
    for instance in ("a", "b"):
        queue.receive(instance.encode(), study="s", instance=instance)
        told.add(instance)
    while study := queue.claim(0):
        (study / DOCUMENTS).mkdir(exist_ok=True)
        names = sorted(path.stem for path in (study / "films").iterdir())
        (study / DOCUMENTS / "001.dcm").write_text(" ".join(names))
        queue.reported(study)
    for study in queue.to_send():
        delivered.append((study / DOCUMENTS / "001.dcm").read_text())
        queue.delivered(study, documents=1)


def test_killed_at_any_step_it_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch):
    """A document may be sent twice, the same one each time; never two documents that share an image."""
    # The process dies here, not the machine.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    clock, steps, num_kills = Clock(), Steps(monkeypatch), 0
    while True:
        folder = tmp_path / str(num_kills)
        delivered: list[str] = []
        told: set[str] = set()
        steps.num_done, steps.last = 0, num_kills
        try:
            work(folder, clock, delivered, told)
        except Killed:
            num_kills += 1
        else:
            break
        steps.last = -1
        images = {path.stem for path in folder.rglob("films/*.dcm")}
        for path in folder.glob("done/*.json"):
            images |= set(json.loads(path.read_text())["instances"])
        assert told <= images, f"step {steps.num_done}"
        work(folder, clock, delivered, told)
        assert sorted(" ".join(sorted(set(delivered))).split()) == ["a", "b"], f"step {steps.num_done}: {delivered}"
        queue = StudyQueue(folder, salt_mark="a", clock=clock)
        counts = queue.counts()
        assert {name: count for name, count in counts.items() if name != "done"} == dict.fromkeys(
            ("receiving", "working", "sending", "quarantine"), 0
        )
        done = [json.loads(path.read_text())["instances"] for path in folder.glob("done/*.json")]
        assert sorted(sum(done, [])) == ["a", "b"]
    print(f"killed at each of {num_kills} steps")
    assert num_kills > 30
