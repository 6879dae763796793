"""``chexmix serve dicom`` as a process of its own: sent to, killed, stopped, started again."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest
from dicom_peers import PATIENT, Archive, Node, film, listening_archive, running_node, send
from pydicom.dataset import Dataset


@pytest.fixture
def archive() -> Iterator[Archive]:
    with listening_archive() as found:
        yield found


@pytest.fixture
def serve(repository, debug_weights, tmp_path, archive) -> Iterator[Callable[[], Node]]:
    """Return a function that starts a node with the small model."""
    arguments = ["--queue", str(tmp_path / "queue"), "--send-to", f"ARCHIVE@127.0.0.1:{archive.port}"]
    arguments += ["--weights", str(debug_weights), "--set", "decode.max_new_tokens=8"]
    arguments += ["--set", "receive.quiet_seconds=0", "--set", "queue.grace_seconds=1"]
    with ExitStack() as stack:
        yield lambda: stack.enter_context(running_node(arguments, repository))


def studies(documents: Iterable[Dataset]) -> list[str]:
    return sorted(document.StudyInstanceUID for document in documents)


@pytest.mark.slow
# pynetdicom leaves the sockets of connections that fail to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_and_stopped_in_the_middle_of_twelve_studies_it_loses_none_and_doubles_none(serve, archive):
    """Each study comes back once, with one document, however often its sender sends it again."""
    films = [film(seed) for seed in range(12)]
    node = serve()
    assert send(node.port, films[:7]) == [0] * 7
    archive.wait_for(lambda: len(archive.documents) >= 2)
    assert node.end(signal.SIGKILL)[0] == -signal.SIGKILL

    node = serve()
    # The sender cannot know what of the last association was kept: it sends all of it again.
    assert send(node.port, films) == [0] * 12
    archive.wait_for(lambda: len(archive.documents) >= 8)
    code, said = node.end(signal.SIGTERM)
    assert code == 0
    left = node.named("stopped")[0]
    assert left["working"] == 0, "what was being reported is finished"
    assert left["receiving"] + left["sending"] + left["done"] == 12

    last = serve()
    assert send(last.port, films) == [0] * 12
    archive.wait_for(lambda: len(archive.documents) == 12)
    last.wait_for("sent", 12 - left["done"])
    assert len(last.named("known")) == 12
    assert last.end(signal.SIGINT)[0] == 130
    assert studies(archive.documents.values()) == studies(films)
    counts = {name: count for name, count in last.named("stopped")[0].items() if name not in ("time", "event")}
    assert counts == {"receiving": 0, "working": 0, "sending": 0, "quarantine": 0, "done": 12}
    written = json.dumps(node.events + last.events) + said
    for secret in (*PATIENT.split("^"), "PID-3", "ACC-3", "20240229", films[3].StudyInstanceUID):
        assert secret not in written
    gc.collect()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--send-to", "PACS"], 2, "--send-to: 'PACS' names no application entity; expected AE@host:port"),
        (["--ae-title", "MUCH TOO LONG A TITLE"], 2, "--ae-title: 'MUCH TOO LONG A TITLE' is no AE title"),
        (["--host", "0.0.0.0"], 2, "--host: 0.0.0.0 can be reached by others; expected --allow AE@HOST with it"),
        (["--allow", "PACS"], 2, "--allow: 'PACS' names no peer; expected AE@host"),
        (["--set", "metrics.port=0", "--set", "metrics.host=::"], 2, "metrics.host: other machines would be let in"),
        (["--set", "receive.ends=never"], 2, "expected quiet, release"),
        (["--set", "receive.most_pdu_bytes=1"], 2, "receive.most_pdu_bytes: is 1; expected 4096..1.04858e+06"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(call, tmp_path, arguments, code, message):
    given = ["--queue", tmp_path / "queue", "--send-to", "PACS@127.0.0.1:104", *arguments]
    done = call("serve", "dicom", *given)
    assert (done.code, done.stdout) == (code, "")
    assert message in done.stderr
    assert not (tmp_path / "queue").exists()


def test_without_pynetdicom_it_says_what_to_install(call, monkeypatch, tmp_path):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pynetdicom" else find(name))
    done = call("serve", "dicom", "--queue", tmp_path / "q", "--send-to", "PACS@127.0.0.1:104")
    assert done.code == 4
    assert "hint: pip install 'chexmix[clinical]'" in done.stderr


def test_without_prometheus_client_metrics_are_not_shown_and_it_says_what_to_install(call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for name in ("chexmix_cli.serve.metrics", "chexmix_cli.serve.dicom.metrics"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    given = ["--queue", tmp_path / "q", "--send-to", "PACS@127.0.0.1:104", "--set", "metrics.port=0"]
    done = call("serve", "dicom", *given)
    assert done.code == 4
    assert "metrics.port: the package prometheus_client is not installed" in done.stderr
    assert "hint: pip install 'chexmix[serve]'" in done.stderr
