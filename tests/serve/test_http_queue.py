"""The queue: which requests share a batch, in which order, and what a fault costs."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import pytest

from chexmix_cli.core.errors import DataError, MachineError, Reason, WeightsError
from chexmix_cli.library.films import Film
from chexmix_cli.serve.http.batching import Queue, Ticket
from chexmix_cli.serve.http.errors import RefusedError, refusal_of
from chexmix_cli.serve.http.logs import JsonLines, log_event, log_exception
from chexmix_cli.serve.http.verbs import Embed, Tokenize


def ticket(verb, name=""):
    return Ticket(verb, Film(name, None, None), 0)


def names(batch):
    return [one.film.id for one in batch]


def test_the_oldest_decides_the_batch_and_no_kind_starves():
    async def run():
        queue = Queue()
        kinds = [Tokenize(), Embed((1,)), Embed((2,))]
        for number in range(12):
            queue.put(ticket(kinds[number % 3], str(number)))
        assert names(queue.take(3)) == ["0", "3", "6"]
        queue.put(ticket(Tokenize(), "late"))
        # Of what is left each oldest has its turn, whatever comes later.
        assert names(queue.take(3)) == ["1", "4", "7"]
        assert names(queue.take(9)) == ["2", "5", "8", "11"]
        assert names(queue.take(9)) == ["9", "late"]
        assert names(queue.take(9)) == ["10"]
        assert len(queue) == 0

    asyncio.run(run())


def test_who_gave_up_is_passed_over():
    async def run():
        queue = Queue()
        tickets = [ticket(Tokenize(), str(number)) for number in range(4)]
        for one in tickets:
            queue.put(one)
        tickets[0].drop()
        tickets[2].drop()
        assert names(queue.take(4)) == ["1", "3"]

    asyncio.run(run())


def test_a_closed_queue_lets_its_thread_end():
    queue, found = Queue(), []
    thread = threading.Thread(target=lambda: found.append(queue.take(1)))
    thread.start()
    queue.close()
    thread.join(10)
    assert found == [None]


def test_a_fault_costs_its_batch_and_not_the_server(serving, films, caplog):  # noqa: F811
    from tests.serve.conftest import data_url

    class Odd:
        name = "odd"

        def __init__(self, error):
            self.error = error

        def __call__(self, served, requests):
            raise self.error

    faults = [
        (ZeroDivisionError("Zephyranthes"), "BUG", 500),
        (WeightsError("the decoder's output is nan", where="/home/ada/weights"), "WEIGHTS", 500),
        (MachineError("not enough memory", where="decoding reports"), "MACHINE", 503),
        (MemoryError("Zephyranthes"), "MACHINE", 503),
    ]
    logger = logging.getLogger("chexmix")
    before, logger.propagate = logger.propagate, True
    try:
        with serving() as client, caplog.at_level(logging.ERROR, "chexmix"):

            async def ask(error):
                one = client.service.submit(Odd(error), Film("Zephyranthes", None, None))
                with pytest.raises(RefusedError) as caught:
                    await asyncio.wait_for(one.result, 30)
                return caught.value

            for error, code, status in faults:
                refused = asyncio.run(ask(error))
                assert (refused.code, refused.status) == (code, status)
                assert "Zephyranthes" not in refused.message
                assert "/home/ada" not in refused.message
            assert client.post("/tokenize", {"image": data_url(films / "a.png")}).status == 200
    finally:
        logger.propagate = before
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert [(line["event"], line["kind"]) for line in lines] == [
        ("error", "ZeroDivisionError"),
        ("error", "WeightsError"),
        ("error", "MachineError"),
        ("error", "MemoryError"),
    ]
    assert "Zephyranthes" not in json.dumps(lines)
    assert any("serve/http/batching.py" in place for place in lines[0]["at"])


def test_a_log_line_quotes_nobody():
    logger = logging.Logger("uvicorn.error")
    record = logger.makeRecord(logger.name, logging.ERROR, "", 1, "bad header %s", ("Zephyranthes",), None)
    assert json.loads(JsonLines().format(record))["message"] == "bad header %s"
    taken = []
    logger.handle = taken.append
    log_event(logger, "request", status=200, code=None)
    try:
        raise KeyError("Zephyranthes")
    except KeyError as error:
        log_exception(logger, error, during="read")
    event, fault = (json.loads(JsonLines().format(one)) for one in taken)
    assert {name: event[name] for name in event if name != "time"} == {
        "level": "info",
        "event": "request",
        "status": 200,
    }
    assert event["time"].endswith("Z")
    assert (fault["kind"], fault["during"]) == ("KeyError", "read")
    assert "Zephyranthes" not in json.dumps(fault)


def test_films_that_give_no_result_have_their_reason_as_code():
    for reason in Reason:
        refused = refusal_of(DataError(reason, "so it is", hint="do that"), param="image")
        assert refused.status == (413 if reason is Reason.TOO_LARGE else 422)
        error = refused.body()["error"]
        assert (error["code"], error["param"]) == (reason.value, "image")
        assert "hint: do that" in error["message"]
    plugin = refusal_of(DataError(Reason.NEEDS_PLUGIN, "no decoder", detail="python-gdcm"))
    assert (plugin.code, plugin.status) == ("NEEDS_PLUGIN:python-gdcm", 422)
