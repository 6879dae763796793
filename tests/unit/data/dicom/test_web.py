"""DICOMweb servers that err, lie or lead elsewhere; a real one is in ``tests/orthanc``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from http_answers import Answer, Server

pytest.importorskip("dicomweb_client", reason="the extra clinical is not installed")

from chexmix_cli.core.data.dicom import web
from chexmix_cli.core.data.dicom.web import DicomwebServer, split_input
from chexmix_cli.core.data.studies.inputs import discover
from chexmix_cli.core.errors import DataError, MachineError, SettingsError
from chexmix_cli.core.settings.inference import InputSettings


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str], Answer]], Server]]:
    """Return a function that starts a server."""
    started: list[Server] = []

    def start(answer: Callable[[str], Answer]) -> Server:
        started.append(Server(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


def found(*uids: str, tag: str = "0020000D") -> Answer:
    entries = [{tag: {"vr": "UI", "Value": [uid]}} for uid in uids]
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps(entries).encode()


def test_a_redirect_is_refused_and_nothing_asked_elsewhere(serve):
    elsewhere = serve(lambda path: found("1.2.3"))
    server = serve(lambda path: (302, {"Location": elsewhere.url + "/studies"}, b""))
    with pytest.raises(DataError, match="--store: the server redirects, which is not followed") as raised:
        DicomwebServer(server.url, where="--store").find({})
    assert raised.value.hint == "give the URL that it redirects to"
    with pytest.raises(DataError, match="the server redirects"):
        DicomwebServer(server.url, where="--store").store([])
    assert elsewhere.asked == []


def test_what_an_answer_names_is_asked_for_by_uid_alone(serve):
    """A UID that is a path, and a URL to retrieve from, as a hostile server gives them."""
    elsewhere = serve(lambda path: found("1.2.3"))

    def answer(path: str) -> Answer:
        url = {"00081190": {"vr": "UR", "Value": [elsewhere.url]}}
        uids = ("../../secret", "1.2.3", "http://127.0.0.1/", "1" * 65)
        return 200, {}, json.dumps([{"0020000D": {"Value": [uid]}, **url} for uid in uids]).encode()

    assert DicomwebServer(serve(answer).url, where="input 1").find({"limit": "4"}) == ["1.2.3"]
    assert elsewhere.asked == []


def test_pages_are_put_together_and_a_server_without_offset_ends(serve):
    def pages(path: str) -> Answer:
        offset = int(path.rpartition("offset=")[2].partition("&")[0])
        return found(*(f"1.{number}" for number in range(offset, min(offset + 2, 5))))

    assert DicomwebServer(serve(pages).url, where="input 1").find({}) == ["1.0", "1.1", "1.2", "1.3", "1.4"]
    server = serve(lambda path: found("1.2", "1.1"))
    assert DicomwebServer(server.url, where="input 1").find({"PatientID": "A&B"}) == ["1.1", "1.2"]
    assert [path for path, _ in server.asked] == [
        "/dicom-web/studies?offset=0&PatientID=A%26B",
        "/dicom-web/studies?offset=2&PatientID=A%26B",
    ]


def test_too_many_studies_are_refused(serve, monkeypatch):
    monkeypatch.setattr(web, "MOST_STUDIES", 3)
    server = serve(lambda path: found(*(f"1.{number}" for number in range(4))))
    with pytest.raises(DataError, match="input 1: the query finds more than 3 studies") as raised:
        DicomwebServer(server.url, where="input 1").find({})
    assert raised.value.code == "TOO_LARGE"


def test_an_answer_that_does_not_end_is_cut(serve, monkeypatch):
    monkeypatch.setattr(web, "_MOST_JSON_BYTES", 1 << 20)
    server = serve(lambda path: (200, {}, b"[" + b" " * (2 << 20) + b"]"))
    with pytest.raises(DataError, match="the server's answer is too large"):
        DicomwebServer(server.url, where="input 1").find({})


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ((401, {}, b"Zephyranthes"), "UNREADABLE", r"the server refuses \(status 401\)"),
        ((404, {}, b"Zephyranthes"), "NOT_FOUND", r"the server has nothing there \(status 404\)"),
        ((500, {}, b"Zephyranthes"), "UNREADABLE", "the server answers status 500"),
        ((503, {}, b"Zephyranthes"), "UNREADABLE", "the server answers status 503"),
        ((200, {}, b"Zephyranthes"), "UNREADABLE", "the server does not answer|answer is not understood"),
        ((200, {}, b'["Zephyranthes"]'), "UNREADABLE", r"answer is not understood \(AttributeError\)"),
    ],
)
def test_what_goes_wrong_is_said_without_the_answer(serve, answer, code, message):
    with pytest.raises(DataError, match=message) as raised:
        DicomwebServer(serve(lambda path: answer).url, where="input 1").find({"PatientName": "Hollowbrook"})
    assert raised.value.code == code
    assert "Zephyranthes" not in raised.value.with_hint
    assert "Hollowbrook" not in raised.value.with_hint


def test_a_server_that_is_not_there(serve):
    server = serve(lambda path: found())
    server.close()
    with pytest.raises(DataError, match="the server does not answer"):
        DicomwebServer(server.url, where="input 1").find({})
    with pytest.raises(DataError, match="the server does not answer") as raised:
        DicomwebServer(server.url, where="--store").store([])
    assert raised.value.code == "NOT_STORED"


def test_documents_that_are_refused_are_told_from_a_server_in_trouble(serve):
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA900]}}]}}
    answer = (202, {"Content-Type": "application/dicom+json"}, json.dumps(failed).encode())
    with pytest.raises(DataError, match=r"the server refuses 1 documents \(failure reason A900\)") as raised:
        DicomwebServer(serve(lambda path: answer).url, where="--store").store([])
    assert raised.value.code == "NOT_STORED:REFUSED"
    with pytest.raises(DataError, match=r"the server refuses 0 documents \(status 409\)") as raised:
        DicomwebServer(serve(lambda path: (409, {}, b"")).url, where="--store").store([])
    assert raised.value.code == "NOT_STORED:REFUSED"
    with pytest.raises(DataError, match="status 500") as raised:
        DicomwebServer(serve(lambda path: (500, {}, b"")).url, where="--store").store([])
    assert raised.value.code == "NOT_STORED"


def test_a_token_goes_to_the_server_and_only_there(serve, monkeypatch):
    monkeypatch.setenv(web.TOKEN_VARIABLE, "sesame")
    server = serve(lambda path: found())
    DicomwebServer(server.url, where="input 1").find({})
    assert server.asked[0][1]["Authorization"] == "Bearer sesame"


@pytest.mark.parametrize("url", ["ftp://host/", "http:///studies", "host:8042", "http://host/dicom-web?a=b"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(SettingsError, match="--store: is no URL of DICOMweb; expected http://HOST:PORT/PATH"):
        DicomwebServer(url, where="--store")


def test_a_password_in_a_url_is_refused():
    with pytest.raises(SettingsError, match="is seen by others; expected it in ~/.netrc"):
        DicomwebServer("https://user:secret@host/dicom-web", where="--store")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match="dicomweb-client is not installed"):
        DicomwebServer("http://host/dicom-web", where="--store")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dicomweb+http://h:8042/dicom-web/studies", ("http://h:8042/dicom-web", None, {})),
        ("dicomweb+https://h/studies?PatientID=A%26B&limit=3", ("https://h", None, {"PatientID": "A&B", "limit": "3"})),
        ("dicomweb+http://h/dicom-web/studies/1.2.3/", ("http://h/dicom-web", "1.2.3", {})),
    ],
)
def test_an_input_is_taken_apart(text, expected):
    assert split_input(text, "input 1") == expected


@pytest.mark.parametrize("path", ["dicom-web", "studies/../x", "studies/1.2/series/3", "studiesx"])
def test_an_input_of_another_form_is_refused_by_itself(path, tmp_path):
    (refusal,) = discover([f"dicomweb+http://127.0.0.1:1/{path}"], InputSettings())
    assert (refusal.id, refusal.error.code) == ("input 1", "NOT_FOUND")
    assert "expected dicomweb+http://HOST/PATH/studies?QUERY" in str(refusal.error)


def test_a_study_of_other_modalities_is_not_fetched(serve):
    def answer(path: str) -> Answer:
        assert "/series" in path
        assert not path.startswith("/dicom-web/studies/1.2.3/series/")
        entry = {"0020000E": {"Value": ["1.2.3.4"]}, "00080060": {"Value": ["CT"]}}
        return 200, {}, json.dumps([entry]).encode()

    server = serve(answer)
    (refusal,) = discover([f"dicomweb+{server.url}/studies/1.2.3"], InputSettings())
    assert refusal.error.code == "NOT_RADIOGRAPH"
    assert len(server.asked) == 1
