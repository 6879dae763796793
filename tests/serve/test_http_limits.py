"""What is refused, with which code, and that what is taken is answered."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.serve.http.errors import STATUS
from tests.serve.conftest import SETTINGS, chat, data_url

TOKEN = "a-token-of-enough-letters"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def film(films):  # noqa: F811
    return films / "a.png"


def asked(film, **changes):
    return {**chat(film), **changes}


def with_image(url):
    return {
        "model": "debug",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
    }


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-4o"}, 404, "NO_SUCH_MODEL", "model"),
        ({"messages": []}, 400, "BAD_REQUEST", "messages"),
        ({"messages": [{"role": "user", "content": "text only"}]}, 400, "NO_IMAGE", "messages"),
        ({"temperature": 3}, 400, "BAD_REQUEST", "temperature"),
        ({"top_p": 0}, 400, "BAD_REQUEST", "top_p"),
        ({"max_tokens": 0}, 400, "BAD_REQUEST", "max_tokens"),
        ({"n": 9}, 400, "UNSUPPORTED_FIELD", "n"),
        ({"stop": ["."]}, 400, "UNSUPPORTED_FIELD", "stop"),
        ({"logprobs": True}, 400, "UNSUPPORTED_FIELD", "logprobs"),
        ({"presence_penalty": 1}, 400, "UNSUPPORTED_FIELD", "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, 400, "UNSUPPORTED_FIELD", "response_format"),
        ({"temprature": 0.5}, 400, "UNKNOWN_FIELD", "temprature"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_requests_that_ask_for_what_there_is_not(client, film, change, status, code, param):
    answer = client.post("/v1/chat/completions", asked(film, **change))
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (status, code, param)
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert status == STATUS[code]


def test_an_unknown_field_is_told_the_nearest(client, film):
    answer = client.post("/v1/chat/completions", asked(film, temprature=0.5))
    assert "did you mean 'temperature'?" in answer.json["error"]["message"]


def test_fields_that_change_no_report_are_taken(client, film):
    plain = {"frequency_penalty": 0, "stop": None, "tools": [], "response_format": {"type": "text"}}
    answer = client.post("/v1/chat/completions", asked(film, user="x", metadata={"a": "b"}, store=False, **plain))
    assert answer.status == 200


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("HTTPS://example.org/film.png", 400, "REMOTE_IMAGE"),
        ("file:///etc/passwd", 400, "REMOTE_IMAGE"),
        ("/etc/passwd", 400, "BAD_IMAGE_URL"),
        ("data:text/plain;base64,QQ==", 400, "BAD_IMAGE_URL"),
        ("data:image/tiff;base64,QQ==", 400, "BAD_IMAGE_URL"),
        ("data:image/png,QQ==", 400, "BAD_IMAGE_URL"),
        ("data:image/png;base64,Q Q=", 400, "BAD_IMAGE_URL"),
        ("data:image/png;base64,QUJD", 422, "UNKNOWN_FORMAT"),
        ("data:application/dicom;base64,QUJD", 422, "UNKNOWN_FORMAT"),
    ],
)
def test_images_come_in_the_request_or_not_at_all(client, url, status, code):
    answer = client.post("/v1/chat/completions", with_image(url))
    assert (answer.status, answer.code) == (status, code)
    assert url not in answer.text


def test_nothing_is_ever_fetched(client):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/film.png"
        assert client.post("/v1/chat/completions", with_image(url)).code == "REMOTE_IMAGE"
        assert client.post("/tokenize", {"image": url}).code == "REMOTE_IMAGE"
        with pytest.raises(TimeoutError):
            other.accept()


def test_two_images_and_films_that_are_none(client, film, make_dicom, tmp_path):  # noqa: F811
    body = chat(film)
    body["messages"] *= 2
    assert client.post("/v1/chat/completions", body).code == "SEVERAL_IMAGES"
    hand = client.report(make_dicom(tmp_path / "hand.dcm", body_part="HAND"))
    assert (hand.status, hand.code) == (422, "NOT_CHEST")
    lateral = client.report(make_dicom(tmp_path / "lateral.dcm", view="LATERAL"))
    assert (lateral.status, lateral.code) == (422, "LATERAL_ONLY")
    declared = data_url(film).replace("image/png", "image/jpeg")
    assert client.post("/tokenize", {"image": declared}).code == "UNKNOWN_FORMAT"


def test_other_paths_methods_and_verbs(client, film):
    assert (client.get("/no/such").status, client.get("/no/such").code) == (404, "NO_SUCH_PATH")
    assert (client.get("/tokenize").status, client.get("/tokenize").code) == (405, "BAD_METHOD")
    url = data_url(film)
    assert client.post("/classify", {"image": url}).code == "NO_HEAD"
    assert client.post("/embed", {"image": url, "layers": [99]}).code == "BAD_REQUEST"
    assert client.post("/inpaint", {"image": url}).code == "BAD_REQUEST"
    both = client.post("/inpaint", {"image": url, "block": 0.1, "mask_ratio": 0.1})
    assert "one of box, block and mask_ratio" in both.json["error"]["message"]
    assert client.ask("POST", "/tokenize", b"{", JSON).code == "BAD_REQUEST"
    assert client.ask("POST", "/tokenize", b"[1]", JSON).code == "BAD_REQUEST"
    # What a web page of another origin may send without asking first.
    assert client.ask("POST", "/tokenize", b"{}", {"Content-Type": "text/plain"}).code == "BAD_CONTENT_TYPE"
    assert client.get("/health", Host="evil.example").status == 200
    assert client.get("/v1/models", Host="evil.example:80").code == "FOREIGN_HOST"


def test_a_token_opens_all_but_what_tells_nothing(serving, film):
    with serving(token=TOKEN) as client:
        right, client.headers = client.headers, {}
        for path in ("/v1/models", "/metrics", "/no/such"):
            answer = client.get(path)
            assert (answer.status, answer.code) == (401, "BAD_TOKEN")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN[:-1]}", "Bearer \u00e4"):
            assert client.get("/v1/models", Authorization=wrong).status == 401
        assert client.report(film).code == "BAD_TOKEN"
        assert {client.get(path).status for path in ("/health", "/docs", "/openapi.json")} == {200}
        client.headers = right
        # With a token it does not matter by which name the server is reached.
        assert client.get("/v1/models", Host="pacs.example").status == 200
        assert client.report(film).status == 200
        assert client.metric('chexmix_refusals_total{code="BAD_TOKEN"}') == 9


def test_bodies_and_films_have_a_size(serving, tmp_path):
    large = tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1024, 1100), dtype=np.uint8)).save(large)
    with serving(max_body_mb=1) as client:
        announced = client.report(large)
        assert (announced.status, announced.code) == (413, "TOO_LARGE")
        connection = http.client.HTTPConnection("127.0.0.1", client.port)
        piece = b" " * (256 << 10)
        connection.request("POST", "/tokenize", (piece for _ in range(5)), JSON, encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (413, "TOO_LARGE")
        answer.close()
        # What was too large is not in the way of the next.
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
        connection.close()
        assert client.get("/health").status == 200


def test_bodies_together_have_a_size_and_leave_it_when_they_are_answered(serving, film):
    padded = json.dumps(chat(film)).encode().ljust(700_000)
    long = DecodeSettings(max_new_tokens=60, min_new_tokens=60)
    with serving(max_body_mb=1, max_held_mb=2, decode=long) as client:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: client.ask("POST", "/v1/chat/completions", padded, JSON), range(24)))
        assert {answer.status for answer in answers} == {200, 429}
        refused = [answer for answer in answers if answer.status == 429]
        assert all("server.max_held_mb" in answer.json["error"]["message"] for answer in refused)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert client.ask("POST", "/v1/chat/completions", padded, JSON).status == 200


def test_decoded_pixels_have_a_limit(client, tmp_path):
    side = int(SETTINGS.input.max_pixels**0.5) + 1
    bomb = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(bomb)
    assert bomb.stat().st_size < 100_000
    answer = client.report(bomb)
    assert (answer.status, answer.code) == (413, "TOO_LARGE")


def test_a_slow_client_holds_nothing_for_long(serving):
    with serving(head_s=0.4, body_s=0.3, idle_s=1.0, queue=1) as client:

        def seconds_until_closed(*sent: bytes) -> tuple[float, bytes]:
            with socket.create_connection(("127.0.0.1", client.port)) as connection:
                started = time.perf_counter()
                connection.settimeout(10)
                received = b""
                for piece in sent:
                    connection.sendall(piece)
                    time.sleep(0.05)
                try:
                    while more := connection.recv(4096):
                        received += more
                except ConnectionResetError:
                    pass
                return time.perf_counter() - started, received

        for sent in (
            (b"",),
            (b"GET /heal",),
            (b"G", b"E", b"T", b" ", b"/"),
            (b"GET /health HTTP/1.1\r\nHost: x\r\n",),
        ):
            seconds, received = seconds_until_closed(*sent)
            assert received == b""
            assert 0.2 < seconds < 5
        head = (
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
        _, received = seconds_until_closed(head, b"{")
        assert b" 408 " in received
        assert b"TOO_SLOW" in received
        # A second request's head, begun and never ended, on a connection that was good once.
        seconds, received = seconds_until_closed(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /")
        assert b" 200 " in received
        assert seconds < 5
        # And the place in the queue is free again.
        assert client.ask("POST", "/tokenize", b"{}", JSON).code == "BAD_REQUEST"


def test_at_the_limit_each_is_answered_or_told_when_to_come_again(serving, film):
    long = DecodeSettings(max_new_tokens=60, min_new_tokens=60)
    with serving(queue=6, decode=long) as client:
        expected = client.report(film).json["choices"][0]["chexmix"]["token_ids"]
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: client.report(film), range(48)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 429}
        for answer in answers:
            if answer.status == 200:
                assert answer.json["choices"][0]["chexmix"]["token_ids"] == expected
            else:
                assert answer.code == "QUEUE_FULL"
                assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert client.metric('chexmix_refusals_total{code="QUEUE_FULL"}') == statuses.count(429)
        path = 'path="/v1/chat/completions"'
        assert client.metric(f'chexmix_requests_total{{{path},status="200"}}') == statuses.count(200) + 1
        assert client.metric("chexmix_queue_requests") == client.metric("chexmix_queue_films") == 0
        # They were worked on together.
        batches = client.metric('chexmix_batch_films_count{verb="report"}')
        assert batches < statuses.count(200)
        assert client.metric('chexmix_batch_films_sum{verb="report"}') == statuses.count(200) + 1


def test_a_client_that_goes_leaves_the_queue(serving, film):
    long = DecodeSettings(max_new_tokens=100, min_new_tokens=100)
    with serving(decode=long) as client:
        body = json.dumps(chat(film)).encode()
        impatient = []
        for _ in range(12):
            connection = http.client.HTTPConnection("127.0.0.1", client.port)
            connection.request("POST", "/v1/chat/completions", body, JSON)
            impatient.append(connection)
        for connection in impatient:
            connection.sock.close()
        assert client.report(film).status == 200
        deadline = time.monotonic() + 20
        while client.metric("chexmix_queue_requests") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.metric("chexmix_queue_requests") == 0
        assert client.metric('chexmix_refusals_total{code="CLIENT_GONE"}') == 12
        # At most the batches that were begun before they went.
        assert client.metric('chexmix_batch_films_sum{verb="report"}') < 13


def test_an_answer_has_a_time(serving, film):
    with serving(answer_s=0.001, decode=DecodeSettings(max_new_tokens=200, min_new_tokens=200)) as client:
        answer = client.report(film)
        assert (answer.status, answer.code) == (504, "OUT_OF_TIME")
        assert client.get("/health").status == 200


def begin_reports(client, film, count):
    """Ask for so many reports at once, wait until all are taken in, and return the threads and where answers come."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(client.report(film))) for _ in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(answers) + client.metric("chexmix_queue_requests") < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads, answers


def test_a_stopping_server_answers_what_it_took(serving, film):
    long = DecodeSettings(max_new_tokens=100, min_new_tokens=100)
    with serving(decode=long, drain_s=60) as client:
        threads, answers = begin_reports(client, film, 12)
    for thread in threads:
        thread.join(30)
    assert [answer.status for answer in answers] == [200] * 12


def test_after_its_time_a_stopping_server_says_so_to_who_still_waits(serving, film):
    long = DecodeSettings(max_new_tokens=150, min_new_tokens=150)
    with serving(decode=long, drain_s=0) as client:
        threads, answers = begin_reports(client, film, 24)
    for thread in threads:
        thread.join(30)
    found = sorted(answer.status for answer in answers)
    assert len(found) == 24
    assert set(found) == {200, 503}
    assert {answer.code for answer in answers if answer.status == 503} == {"STOPPING"}
